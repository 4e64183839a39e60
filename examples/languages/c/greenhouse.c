/* The fan of a hot board goes on; every tenth reading, the mean of the ten goes into the log as an event. */
#include "edge.h"

EDGE_APP("greenhouse_c") {
    EDGE_ON(overheat, "climate", "temperature > 30");
    EDGE_ON(average, "climate", "");
    EDGE_ROUTE(shape, "climate.mean", "cloud");
}

EDGE_FUNCTION(overheat) { edge_command("fan", "{\"on\":true}"); }

EDGE_FUNCTION(average) {
    double count = edge_number("state.count", 0) + 1;
    double sum = edge_number("state.sum", 0) + edge_number("data.temperature", 0);
    if (count == 10) {
        char text[64];
        edge_json json = edge_json_in(text, sizeof text);
        edge_put(&json, "{\"temperature\":");
        edge_put_number(&json, sum / count);
        edge_emit("climate.mean", edge_put(&json, "}"));
        count = sum = 0;
    }
    edge_keep_number("count", count, 0);
    edge_keep_number("sum", sum, 0);
}

EDGE_FUNCTION(shape) {
    char data[1024];
    if (edge_text("data", data, sizeof data) >= (edge_i32)sizeof data) edge_fail("the reading is too long");
    edge_value(data);
}
