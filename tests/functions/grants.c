/* What an app may reach beyond its own events, from C: for tests. */
#include "edge.h"

EDGE_APP_GRANTED("granted", "\"command:b2\",\"http:api.example.com\",\"secret:key\",\"files\"") {
    EDGE_ON(command, "climate", "");
    EDGE_ON(request, "climate", "");
    EDGE_ON(secret, "climate", "");
    EDGE_ON(file, "climate", "");
    EDGE_ON(metric, "climate", "");
    EDGE_ON(defer, "climate", "");
    EDGE_SCHEDULE(tick, "10m");
    EDGE_HTTP(order, "/order");
    EDGE_ON(elsewhere, "climate", "");
    EDGE_ON(other_secret, "climate", "");
}

EDGE_FUNCTION(command) { edge_command_to("b2", "fan", "", 5, "fan"); }

EDGE_FUNCTION(request) {
    char text[64];
    edge_json json = edge_json_in(text, sizeof text);
    edge_i32 status = edge_http("{\"url\":\"https://api.example.com/weather\",\"params\":{\"q\":\"a b\"}}");
    if (status == 0) {
        edge_text("response.error", text, sizeof text);
        edge_fail(text);
    }
    edge_put(&json, "[");
    edge_put_number(&json, status);
    edge_put(&json, ",");
    edge_put_number(&json, edge_number("response.data.rain.0", -1));
    edge_emit("answer", edge_put(&json, "]"));
}

EDGE_FUNCTION(secret) {
    char text[32];
    edge_secret("key", text, sizeof text);
    edge_log(text);
}

EDGE_FUNCTION(file) {
    char text[32];
    edge_i32 length = edge_file("table.json", text, sizeof text - 1);
    text[length] = 0;
    edge_log(text);
    if (edge_file("nothing.json", text, sizeof text) != -1) edge_fail("there is no such file");
}

EDGE_FUNCTION(metric) { edge_metric("litres", 2.5); }

EDGE_FUNCTION(defer) {
    edge_defer("later", "{\"n\":1}", 90, "fan");
    edge_cancel("valve");
}

EDGE_FUNCTION(tick) { edge_log("tick"); }

EDGE_FUNCTION(order) { edge_reply(201, "text/plain", "made"); }

EDGE_FUNCTION(elsewhere) { edge_http("{\"url\":\"https://example.org/\"}"); }

EDGE_FUNCTION(other_secret) {
    char text[8];
    edge_secret("other", text, sizeof text);
}
