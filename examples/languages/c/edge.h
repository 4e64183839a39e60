/* Functions for the edge gateway in C: what a module may import (docs/languages.md), with text as C knows it. */
#ifndef EDGE_H
#define EDGE_H

#define EDGE_IMPORT(name) __attribute__((import_module("edge"), import_name(name)))
#define EDGE_EXPORT(name) __attribute__((export_name(name)))

typedef __INT32_TYPE__ edge_i32;
typedef __UINT32_TYPE__ edge_len;

/* The imports. Text is UTF-8, given by its address and its length. */
EDGE_IMPORT("app") void edge_import_app(const char *json, edge_len);
EDGE_IMPORT("trigger") void edge_import_trigger(const char *json, edge_len);
EDGE_IMPORT("text") edge_i32 edge_import_text(const char *path, edge_len, char *to, edge_len capacity);
EDGE_IMPORT("number") double edge_import_number(const char *path, edge_len);
EDGE_IMPORT("decimal") edge_i32 edge_import_decimal(double, char *to, edge_len capacity);
EDGE_IMPORT("command")
void edge_import_command(const char *device, edge_len, const char *name, edge_len, const char *args, edge_len,
                         double expires, const char *key, edge_len);
EDGE_IMPORT("emit") void edge_import_emit(const char *kind, edge_len, const char *data, edge_len);
EDGE_IMPORT("defer")
void edge_import_defer(const char *kind, edge_len, const char *data, edge_len, double after, const char *key, edge_len);
EDGE_IMPORT("cancel") void edge_import_cancel(const char *key, edge_len);
EDGE_IMPORT("log") void edge_import_log(edge_i32 level, const char *text, edge_len);
EDGE_IMPORT("value") void edge_import_value(const char *json, edge_len);
EDGE_IMPORT("reply") void edge_import_reply(edge_i32 status, const char *type, edge_len, const char *body, edge_len);
EDGE_IMPORT("fail") _Noreturn void edge_import_fail(const char *why, edge_len);
EDGE_IMPORT("metric") void edge_import_metric(const char *name, edge_len, double value);
EDGE_IMPORT("http") edge_i32 edge_import_http(const char *json, edge_len);
EDGE_IMPORT("secret") edge_i32 edge_import_secret(const char *name, edge_len, char *to, edge_len capacity);
EDGE_IMPORT("file") edge_i32 edge_import_file(const char *path, edge_len, char *to, edge_len capacity);
EDGE_IMPORT("state_set")
void edge_import_state_set(const char *name, edge_len, const char *json, edge_len, double ttl);
EDGE_IMPORT("state_set_number")
void edge_import_state_set_number(const char *name, edge_len, double value, double ttl);
EDGE_IMPORT("state_delete") void edge_import_state_delete(const char *name, edge_len);

static inline edge_len edge_length(const char *text) {
    edge_len length = 0;
    while (text && text[length]) length++;
    return length;
}

/* Describe the app: EDGE_APP("name") { EDGE_ON(function, "kind", "where"); ... }, or with what it asks to be granted:
   EDGE_APP_GRANTED("name", "\"http:api.example.com\", \"files\"") { ... } */
#define EDGE_APP(name) EDGE_APP_GRANTED(name, "")
#define EDGE_APP_GRANTED(name, grants)                                                                              \
    static void edge_describe(void);                                                                                \
    EDGE_EXPORT("edge_app") void edge_app(void) {                                                                   \
        static const char described[] = "{\"name\":\"" name "\",\"grants\":[" grants "]}";                            \
        edge_import_app(described, sizeof described - 1);                                                           \
        edge_describe();                                                                                            \
    }                                                                                                               \
    static void edge_describe(void)

/* A trigger as JSON, with any option that docs/languages.md names. */
static inline void edge_trigger(const char *json) { edge_import_trigger(json, edge_length(json)); }

#define EDGE_ON(function, kind, where) \
    edge_trigger("{\"type\":\"on\",\"name\":\"" #function "\",\"kind\":\"" kind "\",\"where\":\"" where "\"}")
#define EDGE_ROUTE(function, kind, to) \
    edge_trigger("{\"type\":\"route\",\"name\":\"" #function "\",\"kind\":\"" kind "\",\"to\":\"" to "\"}")

#define EDGE_SCHEDULE(function, every) \
    edge_trigger("{\"type\":\"schedule\",\"name\":\"" #function "\",\"every\":\"" every "\"}")
#define EDGE_HTTP(function, path) \
    edge_trigger("{\"type\":\"http\",\"name\":\"" #function "\",\"path\":\"" path "\"}")

/* A function of the app: EDGE_FUNCTION(overheat) { ... } */
#define EDGE_FUNCTION(name) EDGE_EXPORT(#name) void name(void)

/* What the function is told: fields of the event ("device", "data.temperature") and of its state ("state.count").
   A number that is not there is `otherwise`. Of text (JSON where it is none) as much as fits is written, with a zero behind
   it; the answer is its whole length, or -1 where there is none. */
static inline double edge_number(const char *path, double otherwise) {
    double found = edge_import_number(path, edge_length(path));
    return found == found ? found : otherwise;
}
static inline edge_i32 edge_text(const char *path, char *to, edge_len capacity) {
    edge_i32 length = edge_import_text(path, edge_length(path), to, capacity - 1);
    to[length < 0 ? 0 : (edge_len)length < capacity ? (edge_len)length : capacity - 1] = 0;
    return length;
}

/* What it does. `args` and `data` are JSON. Effects count only if the function returns. */
static inline void edge_command(const char *name, const char *args) {
    edge_import_command("", 0, name, edge_length(name), args, edge_length(args), 0, "", 0);
}
static inline void edge_command_to(const char *device, const char *name, const char *args, double expires_seconds,
                                   const char *key) {
    edge_import_command(device, edge_length(device), name, edge_length(name), args, edge_length(args), expires_seconds,
                        key, edge_length(key));
}
static inline void edge_emit(const char *kind, const char *data) {
    edge_import_emit(kind, edge_length(kind), data, edge_length(data));
}
/* An event that comes later; with a key it takes the place of the pending one, and can be taken back. */
static inline void edge_defer(const char *kind, const char *data, double after_seconds, const char *key) {
    edge_import_defer(kind, edge_length(kind), data, edge_length(data), after_seconds, key, edge_length(key));
}
static inline void edge_cancel(const char *key) { edge_import_cancel(key, edge_length(key)); }
static inline void edge_log(const char *text) { edge_import_log(1, text, edge_length(text)); }
static inline void edge_warn(const char *text) { edge_import_log(2, text, edge_length(text)); }
static inline void edge_value(const char *json) { edge_import_value(json, edge_length(json)); }
static inline void edge_reply(edge_i32 status, const char *type, const char *body) {
    edge_import_reply(status, type, edge_length(type), body, edge_length(body));
}
static inline _Noreturn void edge_fail(const char *why) { edge_import_fail(why, edge_length(why)); }

static inline void edge_metric(const char *name, double value) { edge_import_metric(name, edge_length(name), value); }

/* What it may reach where the operator has granted it. A request is JSON ({"url": ...}, and "method", "headers", "params",
   "json" or "data", "timeout"); the answer is its status, 0 for none, and the rest is at "response.text",
   "response.data.NAME" (of JSON), "response.headers.NAME", "response.error". */
static inline edge_i32 edge_http(const char *json) { return edge_import_http(json, edge_length(json)); }
static inline edge_i32 edge_secret(const char *name, char *to, edge_len capacity) {
    edge_i32 length = edge_import_secret(name, edge_length(name), to, capacity - 1);
    to[(edge_len)length < capacity ? (edge_len)length : capacity - 1] = 0;
    return length;
}
static inline edge_i32 edge_file(const char *path, char *to, edge_len capacity) {
    return edge_import_file(path, edge_length(path), to, capacity);
}

/* What it keeps for the device of the event; a `ttl` of 0 seconds is for ever. */
static inline void edge_keep(const char *name, const char *json, double ttl_seconds) {
    edge_import_state_set(name, edge_length(name), json, edge_length(json), ttl_seconds);
}
static inline void edge_keep_number(const char *name, double value, double ttl_seconds) {
    edge_import_state_set_number(name, edge_length(name), value, ttl_seconds);
}
static inline void edge_forget(const char *name) { edge_import_state_delete(name, edge_length(name)); }

/* JSON (or any text) in pieces: edge_json json = edge_json_in(buffer, sizeof buffer); edge_put(&json, "{\"mean\":"); ...
   What does not fit is left out, and `full` is set. */
typedef struct {
    char *to;
    edge_len capacity, length;
    int full;
} edge_json;

static inline edge_json edge_json_in(char *to, edge_len capacity) {
    to[0] = 0;
    return (edge_json){to, capacity, 0, 0};
}
static inline const char *edge_put(edge_json *json, const char *text) {
    for (; *text && json->length + 1 < json->capacity; text++) json->to[json->length++] = *text;
    json->full |= *text != 0;
    json->to[json->length] = 0;
    return json->to;
}
static inline const char *edge_put_number(edge_json *json, double number) {
    char text[32];
    edge_i32 length = edge_import_decimal(number, text, sizeof text - 1);
    text[length < (edge_i32)sizeof text ? length : (edge_i32)sizeof text - 1] = 0;
    return edge_put(json, text);
}

#endif
