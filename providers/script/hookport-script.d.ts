// Types of what a script finds. In an editor: /// <reference path="hookport-script.d.ts" />

/** What a script defines. */
declare function deliver(event: HookportEvent, ctx: HookportContext): Receipt | void | Promise<Receipt | void>;

interface HookportEvent<Payload = any> {
  readonly id: string;
  /** Fully qualified: `incident.created`. */
  readonly type: string;
  readonly payload: Payload;
  /** RFC 3339. */
  readonly timestamp: string;
  readonly correlationKey: string | null;
}

interface HookportContext {
  /** Stable across attempts: an idempotency key for the receiver. */
  readonly deliveryId: string;
  /** 1 for the first attempt. */
  readonly attempt: number;
  /** What an earlier delivery of the same correlation key returned. */
  readonly externalId: string | null;
  readonly subscription: { readonly id: string; readonly name: string };
  readonly variables: Readonly<Record<string, string>>;
  /** Marks that the gateway replaces in URLs, headers and bodies; never the secrets themselves. */
  readonly secrets: Readonly<Record<string, string>>;
  /** Renders a template over payload, event, delivery, subscription and the variables given. */
  render(template: string, variables?: Record<string, unknown>): string;
}

interface Receipt {
  /** The receiver's identifier of what was made; handed to later events of the correlation key. */
  externalId?: string | number | null;
  /** One line for the delivery log. */
  summary?: string | null;
}

/** Tried again: after `afterMs`, else by the subscription's schedule. */
declare class RetryError extends Error {
  constructor(message?: string, options?: { afterMs?: number });
  readonly afterMs?: number;
}

/** Not tried again. */
declare class PermanentError extends Error {
  constructor(message?: string);
}

interface FetchOptions {
  /** GET, or POST where there is a body. */
  method?: string;
  headers?: Record<string, string> | [string, string][] | Headers;
  body?: string | null;
  timeoutMs?: number;
}

declare class Headers {
  constructor(init?: Record<string, string> | [string, string][] | Headers);
  append(name: string, value: string): void;
  set(name: string, value: string): void;
  delete(name: string): void;
  has(name: string): boolean;
  get(name: string): string | null;
  entries(): IterableIterator<[string, string]>;
  [Symbol.iterator](): IterableIterator<[string, string]>;
}

interface FetchResponse {
  readonly status: number;
  readonly ok: boolean;
  readonly headers: Headers;
  text(): Promise<string>;
  json(): Promise<any>;
}

/** Rejects with a TypeError whose `kind` is denied, invalid, limit, network or timeout. */
declare function fetch(url: string, options?: FetchOptions): Promise<FetchResponse>;

declare const console: Record<"debug" | "info" | "log" | "warn" | "error", (...values: unknown[]) => void>;
