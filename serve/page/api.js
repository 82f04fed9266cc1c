/** Calls of the service: addresses, the key, waiting while it is busy, and errors in words. */

const STORED_KEY = "raytrain-xai-key"; // of this tab, until it is closed
const TRIES_WHEN_BUSY = 4;

/** What went wrong, in words for the reader; `status` is 0 when there was no answer at all. */
export class Problem extends Error {
  constructor(status, message, retryAfter = 1) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export class Api {
  /** @param {(problem: Problem, refused: boolean) => Promise<string|null>} askForKey what the user enters; null when they give up. */
  constructor(askForKey) {
    this.askForKey = askForKey;
    this.asking = null;
  }

  get key() {
    return sessionStorage.getItem(STORED_KEY);
  }

  /** The JSON of an answer. */
  async json(path, options = {}) {
    return (await this.send(path, options)).json();
  }

  /** A question about one picture: `operation` is predict, explain, trace, intervene or segment. */
  async about(picture, model, operation, options = {}, signal = undefined) {
    const query = new URLSearchParams(Object.entries(options).flatMap(([name, value]) => [value].flat().map((one) => [name, one])));
    const path = `v1/models/${model}:${operation}?${query}`;
    return this.json(path, { method: "POST", body: picture.sent, headers: { "Content-Type": picture.sent.type }, signal });
  }

  /** Sends JSON. */
  async write(path, method, content) {
    return this.json(path, { method, body: JSON.stringify(content), headers: { "Content-Type": "application/json" } });
  }

  /** A picture of the service as a bitmap; its address is one that the service gave. */
  async bitmap(address, signal = undefined) {
    return createImageBitmap(await (await this.send(address, { signal })).blob());
  }

  /** Shows a picture of the service in an <img>; one that needs a key cannot be loaded by its address alone. */
  async show(image, address) {
    if (!this.key) {
      image.src = new URL(address, document.baseURI);
      return;
    }
    const source = URL.createObjectURL(await (await this.send(address, {})).blob());
    image.addEventListener("load", () => URL.revokeObjectURL(source), { once: true });
    image.src = source;
  }

  /** An answer with a good status. Asks for a key when one is needed, waits and tries again while the service is busy. */
  async send(path, options) {
    for (let tries = 1; ; tries++) {
      const { problem, response } = await this.once(path, options);
      if (response) return response;
      if ((problem.status === 401 || problem.status === 403) && (await this.newKey(problem))) continue;
      if (problem.status !== 503 || tries === TRIES_WHEN_BUSY) throw problem;
      await new Promise((resolve) => setTimeout(resolve, 1000 * problem.retryAfter));
      options.signal?.throwIfAborted();
    }
  }

  async once(path, options) {
    const headers = { ...options.headers, ...(this.key ? { Authorization: `Bearer ${this.key}` } : {}) };
    try {
      const response = await fetch(new URL(path, document.baseURI), { ...options, headers });
      return response.ok ? { response } : { problem: await problemOf(response) };
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return { problem: new Problem(0, "The service does not answer. Is it running, and are you online?") };
    }
  }

  /** Asks once, however many requests wait for the key; true when there is a new one. */
  async newKey(problem) {
    this.asking ??= this.askForKey(problem, this.key !== null).finally(() => (this.asking = null));
    const entered = await this.asking;
    if (entered) sessionStorage.setItem(STORED_KEY, entered);
    else if (this.key === null) throw new Problem(401, "Nothing can be asked without a key. Reload the page to enter one.");
    return Boolean(entered);
  }
}

async function problemOf(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || 1;
  try {
    const content = await response.json();
    const number = response.status === 500 ? ` Its number there is ${content.request_id}.` : "";
    return new Problem(response.status, sentence(content.detail) + number, retryAfter);
  } catch {
    return new Problem(response.status, `The service answered with status ${response.status}.`, retryAfter);
  }
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

/** Addresses of what belongs to a model. */
export const at = {
  model: (model) => `v1/models/${model}`,
  search: (model) => `v1/models/${model}:search`,
  sample: (model, number) => `v1/models/${model}/samples/${number}`,
  concept: (model, { layer, id }) => `v1/models/${model}/concepts/${id}?layer=${encodeURIComponent(layer)}`,
  concepts: (model, query) => `v1/models/${model}/concepts?${new URLSearchParams(query)}`,
};
