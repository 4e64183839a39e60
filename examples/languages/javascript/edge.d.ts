// The types of "edge", for editors: copy it beside your app.

declare module "edge" {
  /** What can leave a function: values that JSON has. */
  export type Plain = null | boolean | number | string | Plain[] | { [name: string]: Plain | undefined };

  /** Something that happened on a device or in a function. Times are microseconds since 1970-01-01 UTC. */
  export interface Event {
    device: string;
    kind: string;
    /** When it happened. */
    time: number;
    /** The reading, usually an object. */
    data: any;
    /** The same for every delivery of the event. */
    id: string;
    /** The device's own count within one `boot`. */
    seq: number;
    boot: string;
    /** When the gateway took it in. */
    received: number;
    /** It comes out of order: it had failed, and somebody has asked for it to be tried again. */
    late: boolean;
  }

  /** Seconds, or text such as "90s", "5m", "12h". */
  export type Duration = number | string;

  export interface State {
    /** The value kept under a name; undefined where there is none. Arrays and objects may be changed in place. */
    get(name: string): any;
    set(name: string, value: Plain, options?: { ttl?: Duration }): State;
    has(name: string): boolean;
    delete(name: string): boolean;
    keys(): string[];
  }

  export interface RequestOptions {
    params?: Record<string, string>;
    headers?: Record<string, string>;
    json?: Plain;
    data?: string | Uint8Array;
    timeout?: Duration;
  }

  /** An answer, whatever its status. */
  export interface Answer {
    url: string;
    status: number;
    ok: boolean;
    headers: Record<string, string>;
    content: Uint8Array;
    text: string;
    json(): any;
  }

  /** Requests to the hosts that the app was granted. They answer at once: the function is run again with each answer. */
  export interface Http {
    get(url: string, options?: RequestOptions): Answer;
    post(url: string, options?: RequestOptions): Answer;
    put(url: string, options?: RequestOptions): Answer;
    delete(url: string, options?: RequestOptions): Answer;
    request(method: string, url: string, options?: RequestOptions): Answer;
  }

  /** The files in the app's folder that are not JavaScript. */
  export interface Files {
    bytes(path: string): Uint8Array;
    text(path: string): string;
    json(path: string): any;
    has(path: string): boolean;
    keys(): string[];
  }

  /** What a function can do. Effects are carried out only if it returns. */
  export interface Context {
    readonly state: State;
    readonly http: Http;
    readonly files: Files;
    /** Order a device to do something: the event's, or one that was granted. */
    command(device: string, name: string, args?: Plain, options?: { expires?: Duration; key?: string }): void;
    /** Put a new event into the log, under the device of the event at hand. */
    emit(kind: string, data: Plain): void;
    /** Have an event come later; with a `key` it takes the place of the pending one. */
    defer(kind: string, data: Plain, options: { after: Duration; key?: string }): void;
    cancel(key: string): void;
    log(text: unknown, level?: "debug" | "info" | "warning" | "error"): void;
    /** Note a measured value, or that something has happened once more. */
    metric(name: string, value?: number): void;
    secret(name: string): string;
  }

  export interface Common {
    /** The function's name, where it has none of its own. */
    name?: string;
    retries?: number;
    onError?: "skip" | "hold" | "stop";
  }

  export interface Options extends Common {
    /** A condition over the event's data, such as "temperature > 30". */
    where?: string;
    start?: "latest" | "earliest";
  }

  /** One of `every` ("10m") and `cron` ("0 6 * * *", by the clock of `tz`). */
  export interface Moments extends Common {
    every?: Duration;
    cron?: string;
    tz?: string;
    missed?: "skip" | "once";
  }

  export interface Endpoint extends Common {
    methods?: ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE")[];
    /** Anybody may ask; otherwise those with the app's token. */
    public?: boolean;
    /** Headers that the function gets to see. */
    headers?: string[];
  }

  /** An answer of an endpoint with a status, a body and headers of its own. */
  export class Reply {
    constructor(status?: number, body?: Plain | Uint8Array, options?: { headers?: Record<string, string> });
  }

  export type Run<Result> = (event: Event, ctx: Context) => Result;

  /** A set of functions that are deployed together. */
  export class App {
    constructor(name: string, options?: { grants?: string[] });
    readonly name: string;
    /** Run a function for each event of a kind. */
    on(kind: string, run: Run<void>): App;
    on(kind: string, options: Options & { serial?: boolean }, run: Run<void>): App;
    /** Send what a function returns, for each event of a kind, to a target of edge.toml; null sends nothing. */
    route(kind: string, options: Options & { to: string }, run: Run<Plain | void>): App;
    /** Run a function at moments; `event.data.due` is the moment. */
    schedule(options: Moments, run: Run<void>): App;
    /** Answer requests to `/apps/<app><path>` of the gateway with what a function returns. */
    http(path: string, run: Run<Plain | Reply | void>): App;
    http(path: string, options: Endpoint, run: Run<Plain | Reply | void>): App;
  }

  export class AppError extends Error {}
  export class HttpError extends Error {}
  export class NotGranted extends Error {}
}
