// What becomes of the page's requests, told as 'ended' with a sentence where one failed, and as 'progress' while it waits.
//
// Gradio's client goes dead when a request does not reach the server, and then reloads the page, which loses all that it
// shows. So it is given an answer in any case: a request that failed by itself, after which the next one is tried.
window.ais.sentences ??= (() => {
  const { emit } = window.ais;
  const limit = 100; // MB, as `launch` has it
  const joinTimeout = 30000; // ms until the server takes a request
  const streamTimeout = 60000; // ms without a sign of life, which the server gives every 15 s
  const sentences = {
    full: "The server is busy: too many people are waiting. Try again in a minute.",
    unreachable: "The server cannot be reached. Check your connection, and try again in a moment.",
    lost: "The connection to the server was lost before the answer came. Try again in a moment.",
    late: "The server has not answered in time. Try again in a moment.",
    often: "These are too many requests at once. Try again in a minute.",
    refused: "The server refused the request. Reload the page and try again.",
    expired: "This image is no longer on the server. Upload it again.",
    large: `The file is larger than ${limit} MB, the most that the server takes. Choose a smaller one.`,
    upload: "The file could not be sent to the server. Try again in a moment.",
    broken: "Something went wrong on our side. Try again.",
  };
  const byStatus = { 413: "large", 429: "often", 502: "unreachable", 503: "full", 504: "late" };
  const native = window.fetch.bind(window);
  const asked = new Map(); // requests that the server has taken, by its id for each
  const early = new Map(); // answers that came before their ids
  let uploaded = ""; // why the last upload failed

  function named({ fn_index }) { // "component.event"
    const { components, dependencies } = window.gradio_config;
    const [id, event] = dependencies.find((one) => one.id === fn_index)?.targets[0] ?? [];
    const component = components.find((one) => one.id === id)?.props.elem_id ?? "";
    return `${component.replace("ais-", "")}.${event}`;
  }
  function end(id, failure) {
    if (!asked.has(id)) return void early.set(id, failure);
    emit("ended", { request: asked.get(id), failure });
    asked.delete(id);
  }
  const why = (error, otherwise) => (error.name === "TimeoutError" ? "late" : otherwise);

  async function join(address, options) {
    const request = named(JSON.parse(options.body));
    const fail = (kind) => { // 503 is the one status after which Gradio's client lives on
      emit("ended", { request, failure: sentences[kind] });
      return new Response(JSON.stringify({ detail: sentences[kind] }), { status: 503 });
    };
    try {
      const answer = await native(address, { ...options, signal: AbortSignal.timeout(joinTimeout) });
      if (!answer.ok) return fail(byStatus[answer.status] ?? "refused");
      const { event_id: id } = await answer.clone().json();
      asked.set(id, request);
      if (early.has(id)) end(id, early.get(id));
      early.delete(id);
      return answer;
    } catch (error) {
      return fail(why(error, "unreachable"));
    }
  }

  // The stream of answers, passed on message by message; where it breaks off, every request under way fails.
  function listen(address, options) {
    const bytes = new TextEncoder();
    const told = (message) => bytes.encode(`data: ${JSON.stringify(message)}\n\n`);
    const next = (reader) => {
      let timer;
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new DOMException("no sign of life", "TimeoutError")), streamTimeout);
      });
      return Promise.race([reader.read(), late]).finally(() => clearTimeout(timer));
    };
    async function pass(stream) {
      const answer = await native(address, options);
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ;) {
        const { value, done } = await next(reader);
        if (done) throw new Error("broken off");
        const messages = (text + value).split("\n\n");
        text = messages.pop();
        for (const message of messages) {
          const content = JSON.parse(message.replace(/^data: ?/, ""));
          if (content.msg === "unexpected_error") throw new Error(content.message);
          stream.enqueue(bytes.encode(message + "\n\n"));
          onMessage(content);
          if (content.msg === "close_stream") return;
        }
      }
    }
    return new Response(new ReadableStream({
      async start(stream) {
        try {
          await pass(stream);
        } catch (error) {
          if (options?.signal?.aborted) return;
          const failure = sentences[why(error, "lost")];
          for (const id of [...asked.keys()]) {
            stream.enqueue(told({ msg: "process_completed", event_id: id, success: false, output: { error: failure } }));
            end(id, failure);
          }
          stream.enqueue(told({ msg: "close_stream", event_id: null }));
        }
        stream.close();
      },
    }), { headers: { "Content-Type": "text/event-stream" } });
  }
  function onMessage({ msg, event_id: id, success, output, rank, progress_data: stages }) {
    if (msg === "process_completed") return end(id, success ? "" : output?.error ?? sentences.broken);
    const { progress, index, length, desc } = stages?.at(-1) ?? {};
    const share = progress ?? (length ? index / length : null);
    if (asked.has(id) && (rank > 0 || share !== null || msg === "process_starts")) {
      emit("progress", { request: asked.get(id), before: msg === "estimation" ? rank : 0, share, left: desc ?? "" });
    }
  }

  async function send(address, options) {
    uploaded = sentences.upload;
    try {
      const answer = await native(address, options);
      if (!answer.ok) uploaded = sentences[byStatus[answer.status] ?? "upload"];
      return answer;
    } catch (error) {
      uploaded = sentences.unreachable;
      throw error;
    }
  }

  window.fetch = (input, options) => {
    const path = new URL(input?.url ?? input, location.href).pathname;
    const own = { "/queue/join": join, "/queue/data": listen, "/upload": send };
    const name = Object.keys(own).find((end) => path.endsWith(end));
    return name ? Promise.resolve(own[name](input, options)) : native(input, options);
  };
  return { ...sentences, get uploadFailed() { return uploaded; } };
})();
