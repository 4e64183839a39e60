/* A load generator for CoAP servers: clients that send a confirmable request and wait for its answer.
 *
 *   coapload PORT CLIENTS WARMUP_SECONDS SECONDS METHOD PATH [CREDENTIALS]
 *
 * METHOD is post or put. CREDENTIALS is a file with a line "device key" for each client; then PATH is ignored and every
 * client posts events to its own device's path, in the envelope of docs/wire.md, its key in the query. Without, the same
 * payload goes to PATH. Closed loop: one request of each client is under way (NSTART, RFC 7252 section 4.7), and one that
 * gets no answer within 2 s is sent again. One thread, one epoll. Prints JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { NAME = 128, DATAGRAM = 1152, CON = 0, NON = 1, ACK = 2, SUCCESS = 2 };
static const uint64_t SECOND = 1000000000u;

typedef struct {
    int fd;
    uint8_t boot[8], options[3 * NAME], request[DATAGRAM];
    size_t options_length, request_length;
    uint16_t mid;
    uint64_t sequence, sent, repeat_at;
} Client;

static Client *clients;
static size_t client_count;
static float *latencies;
static size_t latency_count, latency_room;
static long answered, failed, repeated, separate;
static uint64_t measured_from;
static uint8_t method;

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("coapload: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* --- CoAP and CBOR, as much as is needed --- */

static size_t put_nibble(uint8_t *extended, size_t value, uint8_t *nibble) {
    if (value < 13) return *nibble = (uint8_t)value, 0;
    *nibble = 13;
    extended[0] = (uint8_t)(value - 13);
    return 1;
}

static size_t put_option(uint8_t *out, int *last, int number, const void *value, size_t length) {
    uint8_t delta, size, extended[2];
    size_t more = put_nibble(extended, (size_t)(number - *last), &delta);
    size_t n = 1 + more;
    memcpy(out + 1, extended, more);
    more = put_nibble(extended, length, &size);
    memcpy(out + n, extended, more);
    n += more;
    out[0] = (uint8_t)(delta << 4 | size);
    memcpy(out + n, value, length);
    *last = number;
    return n + length;
}

static size_t put_head(uint8_t *out, uint8_t major, uint64_t value) {
    int bytes = value < 24 ? 0 : value < 0x100 ? 1 : value < 0x10000 ? 2 : value < 0x100000000u ? 4 : 8;
    out[0] = (uint8_t)(major << 5 | (bytes == 0 ? value : bytes == 1 ? 24 : bytes == 2 ? 25 : bytes == 4 ? 26 : 27));
    for (int i = 0; i < bytes; i++) out[1 + i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    return 1 + (size_t)bytes;
}

static void build_options(Client *client, char *path, const char *key) {
    int last = 0;
    size_t n = 0;
    char query[NAME + 8], *rest = NULL;
    for (char *part = strtok_r(path, "/", &rest); part; part = strtok_r(NULL, "/", &rest))
        n += put_option(client->options + n, &last, 11, part, strlen(part));
    n += put_option(client->options + n, &last, 12, key ? "\xfd\xe8" : "\x3c", key ? 2 : 1); /* 65000, or 60 */
    if (key) {
        snprintf(query, sizeof query, "k=%s", key);
        n += put_option(client->options + n, &last, 15, query, strlen(query));
    }
    client->options_length = n;
}

/* --- A client --- */

static void transmit(Client *client, uint64_t at) {
    if (send(client->fd, client->request, client->request_length, 0) < 0 && errno != ECONNREFUSED)
        die("cannot send: %s", strerror(errno));
    client->repeat_at = at + 2 * SECOND;
}

static void send_next(Client *client, uint64_t at) {
    static const uint8_t reading[] = "\xa2\x6btemperature\xf9\x4f\xe0\x68humidity\xf9\x51\x00"; /* 31.5 and 40.0 */
    uint8_t *out = client->request;
    size_t n = 0;
    client->mid++;
    out[n++] = 0x42; /* version 1, CON, a token of two bytes */
    out[n++] = method;
    out[n++] = (uint8_t)(client->mid >> 8);
    out[n++] = (uint8_t)client->mid;
    out[n++] = (uint8_t)(client->mid >> 8);
    out[n++] = (uint8_t)client->mid;
    memcpy(out + n, client->options, client->options_length);
    n += client->options_length;
    out[n++] = 0xff;
    out[n++] = 0xa4;
    out[n++] = 0;
    n += put_head(out + n, 2, 8);
    memcpy(out + n, client->boot, 8);
    n += 8;
    out[n++] = 1;
    n += put_head(out + n, 0, client->sequence++);
    out[n++] = 2;
    n += put_head(out + n, 0, now(CLOCK_REALTIME) / 1000);
    out[n++] = 4;
    memcpy(out + n, reading, sizeof reading - 1);
    client->request_length = n + sizeof reading - 1;
    client->sent = at;
    transmit(client, at);
}

static void on_readable(Client *client) {
    uint8_t in[DATAGRAM];
    for (;;) {
        ssize_t got = recv(client->fd, in, sizeof in, MSG_DONTWAIT);
        if (got < 4) {
            if (got < 0 && errno != EAGAIN && errno != ECONNREFUSED) die("cannot receive: %s", strerror(errno));
            return;
        }
        int type = in[0] >> 4 & 3;
        if (type == CON) {
            uint8_t empty[] = {0x60, 0, in[2], in[3]};
            if (send(client->fd, empty, sizeof empty, 0) < 0) die("cannot send: %s", strerror(errno));
        }
        if (!in[1]) { /* an empty ACK: the answer comes later */
            client->repeat_at = UINT64_MAX;
            separate++;
            continue;
        }
        if ((in[0] & 15) != 2 || got < 6 || (in[4] << 8 | in[5]) != client->mid) continue;
        uint64_t at = now(CLOCK_MONOTONIC);
        if (at >= measured_from) {
            if (in[1] >> 5 == SUCCESS)
                answered++;
            else
                failed++;
            if (latency_count < latency_room) latencies[latency_count++] = (float)(at - client->sent) / 1e3f;
        }
        send_next(client, at);
    }
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

int main(int count, char **arguments) {
    if (count < 7 || count > 8) die("usage: coapload PORT CLIENTS WARMUP SECONDS post|put PATH [CREDENTIALS]");
    int port = atoi(arguments[1]);
    client_count = (size_t)atoi(arguments[2]);
    double warm_up = atof(arguments[3]), seconds = atof(arguments[4]);
    method = strcmp(arguments[5], "put") ? 2 : 3;
    FILE *credentials = count == 8 ? fopen(arguments[7], "r") : NULL;
    if (count == 8 && !credentials) die("%s: %s", arguments[7], strerror(errno));
    clients = calloc(client_count, sizeof *clients);
    latency_room = 4u << 20;
    latencies = malloc(latency_room * sizeof *latencies);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!clients || !latencies || epoll < 0) die("out of memory");

    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (size_t i = 0; i < client_count; i++) {
        Client *client = clients + i;
        char path[3 * NAME], device[NAME + 1], key[NAME + 1];
        if (credentials) {
            if (fscanf(credentials, "%128s %128s", device, key) != 2) die("too few credentials");
            snprintf(path, sizeof path, "devices/%s/events/climate", device);
        } else {
            snprintf(path, sizeof path, "%s", arguments[6]);
        }
        build_options(client, path, credentials ? key : NULL);
        if (getrandom(client->boot, sizeof client->boot, 0) < 0 || getrandom(&client->mid, 2, 0) < 0) die("no randomness");
        client->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof address)) die("%s", strerror(errno));
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
        epoll_ctl(epoll, EPOLL_CTL_ADD, client->fd, &event);
    }
    uint64_t begin = now(CLOCK_MONOTONIC);
    measured_from = begin + (uint64_t)(warm_up * 1e9);
    uint64_t end = measured_from + (uint64_t)(seconds * 1e9), look = begin + SECOND / 4;
    for (size_t i = 0; i < client_count; i++) send_next(clients + i, begin);
    for (uint64_t at = begin; at < end; at = now(CLOCK_MONOTONIC)) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, 50);
        for (int i = 0; i < ready; i++) on_readable(events[i].data.ptr);
        if (at < look) continue;
        look = at + SECOND / 4;
        for (size_t i = 0; i < client_count; i++)
            if (clients[i].repeat_at <= at) {
                repeated++;
                transmit(clients + i, at);
            }
    }
    double elapsed = (double)(now(CLOCK_MONOTONIC) - measured_from) / 1e9;
    qsort(latencies, latency_count, sizeof *latencies, ascending);
    printf("{\"answered\":%ld,\"failed\":%ld,\"repeated\":%ld,\"separate\":%ld,\"rate\":%.0f,\"p50\":%.1f,\"p99\":%.1f}\n",
           answered, failed, repeated, separate, (double)answered / elapsed,
           latency_count ? latencies[latency_count / 2] : 0, latency_count ? latencies[latency_count * 99 / 100] : 0);
    return failed ? 2 : 0;
}
