/* A load generator for durable ingest: boards that publish events with QoS 1 and wait for their PUBACKs.
 *
 *   ingestload CREDENTIALS PORT CONNECTIONS [CA]
 *
 * CREDENTIALS is a file with lines "device key"; the first CONNECTIONS of them connect, subscribe to their commands as
 * boards do, and stay. With CA (a PEM file) they speak TLS 1.2 or 1.3 and verify the server. Then it prints the line
 * "connected" and reads runs from standard input, one a line, until its end:
 *
 *   ACTIVE WINDOW RATE WARMUP_SECONDS SECONDS
 *
 * The first ACTIVE boards publish. RATE 0 is a closed loop: each has WINDOW messages under way, and the next leaves with
 * a PUBACK; the latency runs from the sending. Otherwise it is an open loop: they publish in turn, RATE events a second
 * together, at moments fixed beforehand, and the latency runs from the moment an event was due. A run ends when all is
 * acknowledged, or 5 s after its time; a line of JSON tells. One thread, one epoll, no busy waiting.
 *
 * A message is an envelope of docs/wire.md of PAYLOAD bytes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

enum { NAME = 128, PAYLOAD = 128, UNDER_WAY = 256, LAST_ID = 0xff00, BUFFER = 1024, KEEP_ALIVE = 600 };

typedef struct {
    int fd;
    char device[NAME + 1], key[NAME + 1];
    uint8_t boot[8];
    uint32_t sequence;
    uint16_t next_id, under_way;
    uint64_t *due; /* by packet id modulo UNDER_WAY, nanoseconds; 0 where nothing is under way */
    uint8_t in[BUFFER];
    size_t filled;
#ifdef WITH_TLS
    SSL *tls;
#endif
} Board;

static Board *boards;
static size_t board_count;
static long sent, acked, measured, unexpected;
static uint64_t measured_from, measured_to;
static int closed_loop, sending;
static float *samples;
static size_t sample_room;
#ifdef WITH_TLS
static SSL_CTX *tls_context;
#endif

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("ingestload: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- Bytes in and out --- */

static void send_all(Board *board, const uint8_t *data, size_t length) {
#ifdef WITH_TLS
    if (board->tls) {
        if (SSL_write(board->tls, data, (int)length) != (int)length) die("%s: cannot send by TLS", board->device);
        return;
    }
#endif
    /* What is under way fits into any socket's buffer: a server that lets it fill up has stopped reading for good. */
    ssize_t written = send(board->fd, data, length, MSG_NOSIGNAL);
    if (written != (ssize_t)length) die("%s: cannot send: %s", board->device, written < 0 ? strerror(errno) : "full");
}

/* As recv(2): bytes read, 0 at the end, -1 if there is nothing just now. */
static ssize_t receive(Board *board, uint8_t *out, size_t room) {
#ifdef WITH_TLS
    if (board->tls) {
        int got = SSL_read(board->tls, out, (int)room);
        return got > 0 ? got : SSL_get_error(board->tls, got) == SSL_ERROR_WANT_READ ? -1 : 0;
    }
#endif
    ssize_t got = recv(board->fd, out, room, 0);
    return got < 0 && errno != EAGAIN ? 0 : got;
}

static void receive_exactly(Board *board, uint8_t *out, size_t length) {
    while (length) {
        ssize_t got = receive(board, out, length);
        if (got <= 0) die("%s: no answer from the server", board->device);
        out += got;
        length -= (size_t)got;
    }
}

/* --- MQTT and CBOR, as much as is needed --- */

static size_t put_text(uint8_t *out, const char *text) {
    size_t length = strlen(text);
    out[0] = (uint8_t)(length >> 8);
    out[1] = (uint8_t)length;
    memcpy(out + 2, text, length);
    return length + 2;
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

static size_t put_envelope(uint8_t *out, Board *board) {
    static const uint8_t reading[] = "\xa3\x6btemperature\xf9\x4f\xe0\x68humidity\xf9\x51\x00\x64note\x78"; /* 31.5, 40.0 */
    size_t n = 0;
    out[n++] = 0xa4;
    out[n++] = 0;
    n += put_head(out + n, 2, 8);
    memcpy(out + n, board->boot, 8);
    n += 8;
    out[n++] = 1;
    n += put_head(out + n, 0, board->sequence++);
    out[n++] = 2;
    n += put_head(out + n, 0, now(CLOCK_REALTIME) / 1000);
    out[n++] = 4;
    memcpy(out + n, reading, sizeof reading - 1);
    n += sizeof reading - 1;
    out[n] = (uint8_t)(PAYLOAD - n - 1);
    memset(out + n + 1, 'x', PAYLOAD - n - 1);
    return PAYLOAD;
}

/* --- A board --- */

static void join(Board *board, int port) {
    uint8_t packet[4 * NAME + 64], answer[5], *body = packet + 5;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = 20};
    int yes = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    board->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (board->fd < 0) die("%s: %s", board->device, strerror(errno));
    if (connect(board->fd, (struct sockaddr *)&address, sizeof address)) die("port %d: %s", port, strerror(errno));
    setsockopt(board->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(board->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
#ifdef WITH_TLS
    if (tls_context) {
        board->tls = SSL_new(tls_context);
        if (!board->tls || !SSL_set_fd(board->tls, board->fd)) die("out of memory");
        X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(board->tls), "127.0.0.1");
        if (SSL_connect(board->tls) != 1) {
            ERR_print_errors_fp(stderr);
            die("%s: no TLS", board->device);
        }
    }
#endif
    if (getrandom(board->boot, 8, 0) != 8) die("no random bytes");
    size_t n = 0;
    memcpy(body, "\0\4MQTT\4\xc2", 8); /* level 4; user name, password, clean session */
    n += 8;
    body[n++] = KEEP_ALIVE >> 8;
    body[n++] = KEEP_ALIVE & 0xff;
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
    fcntl(board->fd, F_SETFL, O_NONBLOCK);
}

static void publish(Board *board, uint64_t due) {
    uint8_t packet[2 * NAME + PAYLOAD + 64], *body = packet + 5;
    char topic[NAME + 32];
    board->next_id = board->next_id >= LAST_ID ? 1 : (uint16_t)(board->next_id + 1);
    uint64_t *slot = &board->due[board->next_id % UNDER_WAY];
    if (*slot) die("%s: %d messages are not acknowledged", board->device, UNDER_WAY);
    *slot = due;
    snprintf(topic, sizeof topic, "/devices/%s/events/climate", board->device);
    size_t n = put_text(body, topic);
    body[n++] = (uint8_t)(board->next_id >> 8);
    body[n++] = (uint8_t)board->next_id;
    n += put_envelope(body + n, board);
    board->under_way++;
    sent++;
    send_packet(board, 0x32, body, n);
}

static void on_puback(Board *board, uint16_t id, uint64_t at) {
    uint64_t *slot = board->due ? &board->due[id % UNDER_WAY] : NULL;
    if (!slot || !*slot) {
        unexpected++;
        return;
    }
    if (at >= measured_from && at < measured_to) {
        if ((size_t)measured == sample_room) {
            sample_room = sample_room ? 2 * sample_room : 1 << 16;
            samples = realloc(samples, sample_room * sizeof *samples);
            if (!samples) die("out of memory");
        }
        samples[measured++] = (float)(at - *slot) / 1e3f;
    }
    *slot = 0;
    board->under_way--;
    acked++;
    if (closed_loop && sending) publish(board, now(CLOCK_MONOTONIC));
}

static void on_readable(Board *board) {
    ssize_t got;
    while ((got = receive(board, board->in + board->filled, BUFFER - board->filled)) > 0) {
        uint64_t at = now(CLOCK_MONOTONIC);
        size_t end = board->filled + (size_t)got, start = 0;
        while (end - start >= 2) {
            const uint8_t *p = board->in + start;
            size_t length = 2 + (size_t)p[1]; /* none of what comes here is longer than 127 */
            if (p[1] & 0x80) die("%s: an unexpected packet, type %d", board->device, p[0] >> 4);
            if (end - start < length) break;
            if (p[0] == 0x40 && length == 4) on_puback(board, (uint16_t)(p[2] << 8 | p[3]), at);
            else unexpected++;
            start += length;
        }
        board->filled = end - start;
        memmove(board->in, board->in + start, board->filled);
#ifdef WITH_TLS
        if (board->tls) continue;
#endif
        return; /* what came in between wakes us again */
    }
    if (!got) die("%s: the server closed the connection", board->device);
}

/* --- The run --- */

static void read_credentials(const char *path, size_t wanted) {
    FILE *file = fopen(path, "r");
    if (!file) die("%s: %s", path, strerror(errno));
    boards = calloc(wanted, sizeof *boards);
    if (!boards) die("out of memory");
    while (board_count < wanted) {
        Board *board = &boards[board_count];
        if (fscanf(file, "%128s %128s", board->device, board->key) != 2) break;
        board_count++;
    }
    fclose(file);
    if (board_count < wanted || !wanted) die("%s: %zu lines 'device key' for %zu boards", path, board_count, wanted);
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void run(int poll, int timer, size_t active, int window, double rate, double warmup, double seconds) {
    if (!active || active > board_count || window < 1 || window > UNDER_WAY / 2 || rate < 0) die("no such run");
    for (size_t i = 0; i < active; i++)
        if (!boards[i].due && !(boards[i].due = calloc(UNDER_WAY, sizeof(uint64_t)))) die("out of memory");
    uint64_t start = now(CLOCK_MONOTONIC) + 20000000u, latest = 0;
    long planned = 0;
    measured_from = start + (uint64_t)(warmup * 1e9);
    measured_to = measured_from + (uint64_t)(seconds * 1e9);
    sent = acked = measured = 0;
    closed_loop = rate == 0;
    sending = 1;
    if (closed_loop)
        for (size_t i = 0; i < active; i++)
            for (int j = 0; j < window; j++) publish(&boards[i], now(CLOCK_MONOTONIC));
    for (;;) {
        uint64_t at = now(CLOCK_MONOTONIC), due = measured_to;
        if (at >= measured_to) sending = 0;
        if (!sending && (acked == sent || at >= measured_to + 5000000000u)) break;
        if (!closed_loop && sending) {
            for (due = start + (uint64_t)((double)planned * 1e9 / rate); due <= at && due < measured_to;
                 due = start + (uint64_t)((double)planned * 1e9 / rate)) {
                if (due >= measured_from && at - due > latest) latest = at - due;
                publish(&boards[(size_t)planned % active], due);
                planned++;
            }
        }
        uint64_t next = sending ? (due < measured_to ? due : measured_to) : measured_to + 5000000000u;
        struct itimerspec alarm = {.it_value = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &alarm, NULL);
        struct epoll_event events[256];
        int ready = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < ready; i++)
            if (events[i].data.ptr) on_readable(events[i].data.ptr);
    }
    qsort(samples, (size_t)measured, sizeof *samples, ascending);
    printf("{\"sent\": %ld, \"acked\": %ld, \"unexpected\": %ld, \"rate\": %.1f, \"late\": %.0f", sent, acked, unexpected,
           (double)measured / seconds, (double)latest / 1e3);
    if (measured)
        printf(", \"p50\": %.0f, \"p99\": %.0f, \"max\": %.0f", samples[measured / 2], samples[measured * 99 / 100],
               samples[measured - 1]);
    puts("}");
    fflush(stdout);
}

static void use_tls(const char *authority) {
#ifdef WITH_TLS
    tls_context = SSL_CTX_new(TLS_client_method());
    if (!tls_context || !SSL_CTX_load_verify_locations(tls_context, authority, NULL)) die("%s: no CA", authority);
    SSL_CTX_set_verify(tls_context, SSL_VERIFY_PEER, NULL);
#else
    die("%s: built without TLS", authority);
#endif
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 5) die("usage: ingestload CREDENTIALS PORT CONNECTIONS [CA]");
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    read_credentials(argv[1], (size_t)atol(argv[3]));
    if (argc == 5) use_tls(argv[4]);
    int poll = epoll_create1(EPOLL_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    epoll_ctl(poll, EPOLL_CTL_ADD, timer, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL});
    for (size_t i = 0; i < board_count; i++) {
        join(&boards[i], atoi(argv[2]));
        epoll_ctl(poll, EPOLL_CTL_ADD, boards[i].fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &boards[i]});
    }
    puts("connected");
    fflush(stdout);
    size_t active;
    int window;
    double rate, warmup, seconds;
    while (scanf("%zu %d %lf %lf %lf", &active, &window, &rate, &warmup, &seconds) == 5)
        run(poll, timer, active, window, rate, warmup, seconds);
    return 0;
}
