// What a script finds beside the language itself. Evaluated once, when the component is built.
"use strict";
(function (global, natives) {
  const { send, log, render } = natives;

  class RetryError extends Error {
    constructor(message, options) {
      super(message);
      this.name = "RetryError";
      this.afterMs = options && options.afterMs;
    }
  }
  class PermanentError extends Error {
    constructor(message) {
      super(message);
      this.name = "PermanentError";
    }
  }

  class Headers {
    constructor(init) {
      this.list = [];
      const pairs = init instanceof Headers ? init.list : Array.isArray(init) ? init : Object.entries(init || {});
      for (const [name, value] of pairs) this.append(name, value);
    }
    append(name, value) { this.list.push([String(name).toLowerCase(), String(value)]); }
    set(name, value) { this.delete(name); this.append(name, value); }
    delete(name) { name = String(name).toLowerCase(); this.list = this.list.filter(([key]) => key !== name); }
    has(name) { return this.get(name) !== null; }
    get(name) {
      name = String(name).toLowerCase();
      const found = this.list.filter(([key]) => key === name).map(([, value]) => value);
      return found.length ? found.join(", ") : null;
    }
    entries() { return this.list[Symbol.iterator](); }
    [Symbol.iterator]() { return this.entries(); }
  }

  class Response {
    constructor(answer) {
      this.status = answer.status;
      this.ok = answer.status >= 200 && answer.status < 300;
      this.headers = new Headers(answer.headers);
      this.body_text = answer.body;
    }
    async text() { return this.body_text; }
    async json() { return JSON.parse(this.body_text); }
  }

  // Requests wait here until the gateway has answered them.
  const waiting = new Map();
  let requests = 0;
  function fetch(url, options) {
    options = options || {};
    const headers = new Headers(options.headers);
    const body = options.body === undefined || options.body === null ? null : String(options.body);
    const request = {
      id: ++requests,
      method: String(options.method || (body === null ? "GET" : "POST")).toUpperCase(),
      url: String(url),
      headers: headers.list,
      body,
      timeoutMs: options.timeoutMs === undefined ? null : Number(options.timeoutMs),
    };
    return new Promise((resolve, reject) => {
      waiting.set(request.id, { resolve, reject });
      send(JSON.stringify(request));
    });
  }
  function settle(answer) {
    const promise = waiting.get(answer.id);
    waiting.delete(answer.id);
    if (answer.error !== undefined) {
      const error = new TypeError(answer.error);
      error.kind = answer.kind;
      promise.reject(error);
    } else {
      promise.resolve(new Response(answer));
    }
  }

  function show(value) {
    if (typeof value === "string") return value;
    if (value instanceof Error) return String(value);
    try { return JSON.stringify(value) ?? String(value); } catch { return String(value); }
  }
  const console = {};
  for (const level of ["debug", "info", "warn", "error"]) {
    console[level] = (...values) => { log(level, values.map(show).join(" ")); };
  }
  console.log = console.info;

  let outcome = null;
  function start(input) {
    if (typeof global.deliver !== "function") {
      outcome = { missing: true };
      return;
    }
    const ctx = Object.freeze({
      ...input.ctx,
      render: (template, variables) => render(String(template), JSON.stringify(variables || {})),
    });
    (async () => global.deliver(input.event, ctx))().then(
      (value) => {
        const receipt = value === undefined || value === null ? {} : value;
        if (typeof receipt !== "object") {
          outcome = { wrong: typeof receipt };
          return;
        }
        const text = (member) => (receipt[member] === undefined || receipt[member] === null ? null : String(receipt[member]));
        outcome = { externalId: text("externalId"), summary: text("summary") };
      },
      (error) => {
        natives.failed(error);
        const afterMs = error instanceof RetryError && Number(error.afterMs) >= 0 ? Number(error.afterMs) : null;
        outcome = {
          failed: true,
          message: show(error),
          retry: error instanceof PermanentError || (error && error.kind === "denied") ? "never" : afterMs === null ? "default" : "after",
          afterMs,
        };
      },
    );
  }

  for (const [name, value] of Object.entries({ RetryError, PermanentError, Headers, fetch, console })) {
    Object.defineProperty(global, name, { value, writable: true, configurable: true });
  }
  // For the gateway's side; a script that meddles with it harms itself only.
  const forget = () => { delete global.deliver; outcome = null; };
  return { start, settle, outcome: () => outcome, forget };
})
