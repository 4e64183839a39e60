/* A load generator for the whole loop: boards that publish events and wait for the commands these cause.
 *
 *   mqttload CREDENTIALS PORT RATE WARMUP_SECONDS SECONDS
 *
 * CREDENTIALS is a file with a line "device key" for each connection. Every board subscribes to its commands; then events
 * leave in turn at RATE a second, at moments fixed beforehand (open loop): a latency runs from the moment an event was due,
 * so that a server that stalls the sender does not look fast. One thread, one epoll, no busy waiting. Prints JSON.
 *
 * Envelopes, commands and replies are those of docs/wire.md. MQTT 3.1.1, QoS 1 both ways.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { NAME = 128, BUFFER = 1 << 16, REPLY_IDS = 0x8000 };

typedef struct {
    int fd;
    char device[NAME + 1], key[NAME + 1], topic[2 * NAME];
    uint8_t boot[8];
    uint32_t sent, replies;
    uint64_t *due;              /* by sequence, nanoseconds */
    uint8_t *acked, *commanded; /* by sequence */
    uint8_t in[BUFFER];
    size_t filled;
} Board;

typedef struct {
    float *values;
    size_t count, room;
} Samples;

static Board *boards;
static size_t board_count;
static uint64_t measured_from;
static long acked, commanded, repeated, replied, sent, total, unreadable;
static Samples puback, command;

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("mqttload: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void note(Samples *samples, uint64_t due, uint64_t at) {
    if (due >= measured_from && samples->count < samples->room)
        samples->values[samples->count++] = (float)(at - due) / 1e3f;
}

/* --- MQTT and CBOR, as much as is needed --- */

static size_t put_text(uint8_t *out, const char *text) {
    size_t length = strlen(text);
    out[0] = (uint8_t)(length >> 8);
    out[1] = (uint8_t)length;
    memcpy(out + 2, text, length);
    return length + 2;
}

static void send_all(Board *board, const uint8_t *data, size_t length) {
    while (length) {
        ssize_t written = send(board->fd, data, length, MSG_NOSIGNAL);
        if (written < 0) die("%s: cannot send: %s", board->device, strerror(errno));
        data += written;
        length -= (size_t)written;
    }
}

/* Prepends the fixed header and sends; `body` must have 5 free bytes before it. */
static void send_packet(Board *board, uint8_t first, uint8_t *body, size_t length) {
    uint8_t header[5];
    size_t n = 0, rest = length;
    header[n++] = first;
    do {
        header[n] = rest & 0x7f;
        rest >>= 7;
        if (rest) header[n] |= 0x80;
        n++;
    } while (rest);
    memcpy(body - n, header, n);
    send_all(board, body - n, length + n);
}

static size_t put_head(uint8_t *out, uint8_t major, uint64_t value) {
    int bytes = value < 24 ? 0 : value < 0x100 ? 1 : value < 0x10000 ? 2 : value < 0x100000000u ? 4 : 8;
    out[0] = (uint8_t)(major << 5 | (bytes == 0 ? value : bytes == 1 ? 24 : bytes == 2 ? 25 : bytes == 4 ? 26 : 27));
    for (int i = 0; i < bytes; i++) out[1 + i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    return 1 + (size_t)bytes;
}

typedef struct {
    const uint8_t *at, *end;
} Cbor;

/* Reads the head of an item: 1 and its major type and argument, or 0. */
static int head(Cbor *cbor, int *major, uint64_t *value) {
    if (cbor->at >= cbor->end) return 0;
    uint8_t first = *cbor->at++;
    *major = first >> 5;
    int info = first & 31;
    if (info < 24) return *value = (uint64_t)info, 1;
    if (info > 27) return 0;
    int bytes = 1 << (info - 24);
    if (cbor->end - cbor->at < bytes) return 0;
    *value = 0;
    while (bytes--) *value = *value << 8 | *cbor->at++;
    return 1;
}

static int skip(Cbor *cbor, int depth) {
    int major;
    uint64_t value;
    if (depth > 20 || !head(cbor, &major, &value)) return 0;
    if (major == 2 || major == 3) {
        if ((uint64_t)(cbor->end - cbor->at) < value) return 0;
        cbor->at += value;
    } else if (major == 4 || major == 5) {
        if (value > BUFFER) return 0;
        for (uint64_t i = 0; i < value * (major == 5 ? 2 : 1); i++)
            if (!skip(cbor, depth + 1)) return 0;
    } else if (major == 6) {
        return 0;
    }
    return 1;
}

static int bytes_of(Cbor *cbor, const uint8_t **bytes, uint64_t length) {
    int major;
    uint64_t value;
    if (!head(cbor, &major, &value) || major != 2 || value != length) return 0;
    if ((uint64_t)(cbor->end - cbor->at) < length) return 0;
    *bytes = cbor->at;
    cbor->at += length;
    return 1;
}

/* The id and the cause's sequence of a command; 0 if it is not one of this board's. */
static int read_command(Board *board, Cbor cbor, const uint8_t **id, uint64_t *sequence) {
    int major;
    uint64_t pairs, key, length;
    const uint8_t *boot = NULL;
    *id = NULL;
    if (!head(&cbor, &major, &pairs) || major != 5) return 0;
    while (pairs--) {
        if (!head(&cbor, &major, &key) || major != 0) return 0;
        if (key == 0) {
            if (!bytes_of(&cbor, id, 16)) return 0;
        } else if (key == 4) {
            if (!head(&cbor, &major, &length) || major != 4 || length != 2 || !bytes_of(&cbor, &boot, 8)) return 0;
            if (!head(&cbor, &major, sequence) || major != 0) return 0;
        } else if (!skip(&cbor, 0)) {
            return 0;
        }
    }
    return *id && boot && !memcmp(boot, board->boot, 8) && *sequence < board->sent;
}

/* --- A board --- */

static void receive_exactly(Board *board, uint8_t *out, size_t length) {
    while (length) {
        ssize_t got = recv(board->fd, out, length, 0);
        if (got <= 0) die("%s: no answer from the server: %s", board->device, got ? strerror(errno) : "closed");
        out += got;
        length -= (size_t)got;
    }
}

static void join(Board *board, int port) {
    uint8_t packet[4 * NAME + 64], answer[5], *body = packet + 5;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = 10};
    int yes = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    board->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (board->fd < 0 || connect(board->fd, (struct sockaddr *)&address, sizeof address))
        die("port %d: %s", port, strerror(errno));
    setsockopt(board->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(board->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(board->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);

    size_t n = 0;
    memcpy(body, "\0\4MQTT\4\xc2\0\x78", 10); /* level 4; user name, password, clean session; keep-alive 120 s */
    n += 10;
    n += put_text(body + n, board->device);
    n += put_text(body + n, board->device);
    n += put_text(body + n, board->key);
    send_packet(board, 0x10, body, n);
    receive_exactly(board, answer, 4);
    if (answer[0] != 0x20 || answer[3]) die("%s: refused with CONNACK %d", board->device, answer[3]);

    char filter[NAME + 32];
    snprintf(filter, sizeof filter, "/devices/%s/commands/#", board->device);
    body[0] = 0;
    body[1] = 1;
    n = 2 + put_text(body + 2, filter);
    body[n++] = 1;
    send_packet(board, 0x82, body, n);
    receive_exactly(board, answer, 5);
    if (answer[0] != 0x90 || answer[4] > 1) die("%s: the subscription was refused", board->device);
}

static void publish(Board *board, uint64_t due) {
    static const uint8_t reading[] = "\xa2\x6btemperature\xf9\x4f\xe0\x68humidity\xf9\x51\x00"; /* 31.5 and 40.0 */
    uint8_t packet[4 * NAME + 128], *body = packet + 5;
    uint32_t sequence = board->sent++;
    uint16_t id = (uint16_t)(sequence + 1);
    size_t n = put_text(body, board->topic);
    body[n++] = (uint8_t)(id >> 8);
    body[n++] = (uint8_t)id;
    body[n++] = 0xa4;
    body[n++] = 0;
    n += put_head(body + n, 2, 8);
    memcpy(body + n, board->boot, 8);
    n += 8;
    body[n++] = 1;
    n += put_head(body + n, 0, sequence);
    body[n++] = 2;
    n += put_head(body + n, 0, now(CLOCK_REALTIME) / 1000);
    body[n++] = 4;
    memcpy(body + n, reading, sizeof reading - 1);
    n += sizeof reading - 1;
    board->due[sequence] = due;
    send_packet(board, 0x32, body, n);
    sent++;
}

static void reply(Board *board, const uint8_t *id) {
    uint8_t packet[2 * NAME + 64], *body = packet + 5;
    char topic[NAME + 32];
    uint16_t packet_id = (uint16_t)(REPLY_IDS | (board->replies++ & 0x7fff));
    snprintf(topic, sizeof topic, "/devices/%s/replies", board->device);
    size_t n = put_text(body, topic);
    body[n++] = (uint8_t)(packet_id >> 8);
    body[n++] = (uint8_t)packet_id;
    memcpy(body + n, "\xa2\x00\x50", 3);
    memcpy(body + n + 3, id, 16);
    memcpy(body + n + 19, "\x01\x00", 2);
    send_packet(board, 0x32, body, n + 21);
}

static void on_publish(Board *board, uint8_t flags, const uint8_t *body, size_t length, uint64_t at) {
    size_t start = length < 2 ? length : 2 + ((size_t)body[0] << 8 | body[1]);
    const uint8_t *id;
    uint64_t sequence = 0;
    int quality = flags >> 1 & 3;
    if (start + (quality ? 2 : 0) > length) die("%s: a malformed PUBLISH", board->device);
    if (quality) {
        uint8_t packet[7] = {0}, *answer = packet + 5;
        memcpy(answer, body + start, 2);
        send_packet(board, 0x40, answer, 2);
        start += 2;
    }
    if (!read_command(board, (Cbor){body + start, body + length}, &id, &sequence)) {
        unreadable++;
        return;
    }
    if (board->commanded[sequence]) {
        repeated++;
    } else {
        board->commanded[sequence] = 1;
        commanded++;
        note(&command, board->due[sequence], at);
    }
    reply(board, id);
}

static void on_puback(Board *board, const uint8_t *body, size_t length, uint64_t at) {
    uint32_t id = length < 2 ? 0 : (uint32_t)body[0] << 8 | body[1];
    if (id & REPLY_IDS) {
        replied++;
    } else if (id && id <= board->sent && !board->acked[id - 1]) {
        board->acked[id - 1] = 1;
        acked++;
        note(&puback, board->due[id - 1], at);
    }
}

static void on_readable(Board *board) {
    ssize_t got = recv(board->fd, board->in + board->filled, BUFFER - board->filled, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) die("%s: the server closed the connection", board->device);
    uint64_t at = now(CLOCK_MONOTONIC);
    board->filled += (size_t)got;
    uint8_t *p = board->in, *end = board->in + board->filled;
    while (end - p >= 2) {
        size_t length = 0, n = 1;
        int complete = 0;
        for (; n < 5 && p + n < end && !complete; n++) {
            length |= (size_t)(p[n] & 0x7f) << (7 * (n - 1));
            complete = !(p[n] & 0x80);
        }
        if (length + n > BUFFER) die("%s: a packet of %zu bytes", board->device, length);
        if (!complete || (size_t)(end - p) < n + length) break;
        if (p[0] >> 4 == 3) on_publish(board, p[0] & 15, p + n, length, at);
        if (p[0] >> 4 == 4) on_puback(board, p + n, length, at);
        p += n + length;
    }
    board->filled = (size_t)(end - p);
    memmove(board->in, p, board->filled);
}

/* --- The run --- */

static void read_credentials(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) die("%s: %s", path, strerror(errno));
    Board board = {0};
    while (fscanf(file, "%128s %128s", board.device, board.key) == 2) {
        boards = realloc(boards, (board_count + 1) * sizeof *boards);
        if (!boards) die("out of memory");
        boards[board_count++] = board;
    }
    fclose(file);
    if (!board_count) die("%s: no line 'device key'", path);
}

static void *zeroed(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory) die("out of memory");
    return memory;
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, Samples *samples) {
    size_t n = samples->count;
    float *v = samples->values;
    qsort(v, n, sizeof *v, ascending);
    printf(", \"%s\": ", name);
    if (!n) printf("null");
    else
        printf("{\"count\": %zu, \"p50\": %.0f, \"p99\": %.0f, \"max\": %.0f}", n, v[n / 2], v[n * 99 / 100], v[n - 1]);
}

int main(int argc, char **argv) {
    if (argc != 6) die("usage: mqttload CREDENTIALS PORT RATE WARMUP_SECONDS SECONDS");
    read_credentials(argv[1]);
    int port = atoi(argv[2]);
    double rate = atof(argv[3]), warmup = atof(argv[4]), seconds = atof(argv[5]);
    total = (long)(rate * (warmup + seconds));
    size_t each = (size_t)total / board_count + 1;
    if (rate <= 0 || total <= 0 || each >= REPLY_IDS) die("between 1 and %d events for each device", REPLY_IDS - 1);
    puback = (Samples){zeroed((size_t)total, sizeof(float)), 0, (size_t)total};
    command = (Samples){zeroed((size_t)total, sizeof(float)), 0, (size_t)total};

    int poll = epoll_create1(EPOLL_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    epoll_ctl(poll, EPOLL_CTL_ADD, timer, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL});
    for (size_t i = 0; i < board_count; i++) {
        Board *board = &boards[i];
        if (getrandom(board->boot, 8, 0) != 8) die("no random bytes");
        snprintf(board->topic, sizeof board->topic, "/devices/%s/events/climate", board->device);
        board->due = zeroed(each, sizeof *board->due);
        board->acked = zeroed(each, 1);
        board->commanded = zeroed(each, 1);
        join(board, port);
        epoll_ctl(poll, EPOLL_CTL_ADD, board->fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = board});
    }

    uint64_t start = now(CLOCK_MONOTONIC) + 50000000u, latest = 0;
    uint64_t give_up = start + (uint64_t)((warmup + seconds + 5) * 1e9);
    measured_from = start + (uint64_t)(warmup * 1e9);
    while (acked < total || commanded < total || replied < commanded + repeated) {
        uint64_t at = now(CLOCK_MONOTONIC), due = start + (uint64_t)((double)sent * 1e9 / rate);
        if (at >= give_up) break;
        while (sent < total && due <= at) {
            if (due >= measured_from && at - due > latest) latest = at - due;
            publish(&boards[(size_t)sent % board_count], due);
            due = start + (uint64_t)((double)sent * 1e9 / rate);
        }
        uint64_t next = sent < total ? due : give_up;
        struct itimerspec alarm = {.it_value = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &alarm, NULL);
        struct epoll_event events[64];
        int ready = epoll_wait(poll, events, 64, -1);
        for (int i = 0; i < ready; i++)
            if (events[i].data.ptr) on_readable(events[i].data.ptr);
    }
    printf("{\"sent\": %ld, \"acked\": %ld, \"commands\": %ld, \"repeated\": %ld, \"unreadable\": %ld, \"replied\": %ld",
           sent, acked, commanded, repeated, unreadable, replied);
    printf(", \"sender_late_max\": %.0f", (double)latest / 1e3);
    print_samples("puback", &puback);
    print_samples("command", &command);
    puts("}");
    return acked == total && commanded == total ? 0 : 2;
}
