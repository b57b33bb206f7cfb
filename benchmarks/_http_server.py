"""A thin HTTP server around either side's `encode`, for `serving.py`, which starts it in that side's environment.

Both sides share the code: the standard library's asyncio, `POST` of `{"instances": ["text", ...]}`, an answer of
`{"predictions": [[...], ...]}`, persistent connections, and dynamic batching: while the model is busy, requests wait;
when it is free, it takes all waiting requests, up to the largest batch.
"""

import asyncio
import concurrent.futures
import importlib.metadata
import json
import os
import threading
import time

from benchmarks._harness import Requests, peak_mib


def exported(setup):
    """Returns the exported model, loaded as in a server without tfxfer or Keras."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (registers the ops of the tokenizer)

    tf.config.threading.set_intra_op_parallelism_threads(setup["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(setup["threads"])
    loaded = tf.saved_model.load(setup["weights"])
    embed = loaded.signatures["embed"]

    def encode(texts):
        return embed(text=tf.constant(texts))["embedding"].numpy()

    encode.model = loaded
    return encode, ("tensorflow", "tensorflow-text")


def sentence_transformers(setup):
    """sentence-transformers, as its users run it."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(setup["threads"])
    model = SentenceTransformer(setup["weights"], device="cpu")
    model.max_seq_length = setup["sequence_length"]

    def encode(texts):
        with torch.inference_mode():
            return model.encode(texts, batch_size=setup["max_batch"], show_progress_bar=False)

    return encode, ("torch", "sentence-transformers")


ENGINES = {"exported": exported, "sentence_transformers": sentence_transformers}


class Batcher:
    """Merges the texts of waiting requests into batches, which are computed in turn in a separate thread."""

    def __init__(self, encode, max_batch):
        self.encode, self.max_batch = encode, max_batch
        self.waiting, self.arrived = [], asyncio.Event()
        self.rows = self.batches = 0
        self.thread = concurrent.futures.ThreadPoolExecutor(1)

    async def __call__(self, texts):
        """Returns the vectors of one request's texts."""
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((texts, answer))
        self.arrived.set()
        return await answer

    def take(self):
        """Returns the requests of the next batch: at least one, and no more than fit."""
        count = texts = 0
        for request, _ in self.waiting:
            if count and texts + len(request) > self.max_batch:
                break
            count, texts = count + 1, texts + len(request)
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    async def run(self):
        """Serves requests until the process ends."""
        loop = asyncio.get_running_loop()
        while True:
            await self.arrived.wait()
            taken = self.take()
            if not self.waiting:
                self.arrived.clear()
            texts = [text for request, _ in taken for text in request]
            self.rows, self.batches = self.rows + len(texts), self.batches + 1
            try:
                vectors = await loop.run_in_executor(self.thread, self.encode, texts)
            except Exception as error:
                for _, answer in taken:
                    answer.set_exception(error)
                continue
            start = 0
            for request, answer in taken:
                answer.set_result(vectors[start : start + len(request)])
                start += len(request)


async def answer_connection(reader, writer, batcher):
    """Answers the requests of one connection until it is closed."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            [size] = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
            request = json.loads(await reader.readexactly(int(size)))
            vectors = await batcher(request["instances"])
            body = json.dumps({"predictions": vectors.tolist()}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def resident_mib():
    """Returns the resident memory of the process, in MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def serve(requests, setup):
    """Loads the model, warms it up if requested, and answers on a free port and over the pipes."""
    start = time.perf_counter()
    encode, packages = ENGINES[setup["engine"]](setup)
    loaded = time.perf_counter()
    for texts in setup["warmup"]:
        encode(texts)
    warm = time.perf_counter()
    ready = threading.Event()
    state = {}

    async def main():
        state["batcher"] = batcher = Batcher(encode, setup["max_batch"])
        server = await asyncio.start_server(lambda r, w: answer_connection(r, w, batcher), "127.0.0.1", 0, backlog=512)
        state["port"] = server.sockets[0].getsockname()[1]
        work = asyncio.create_task(batcher.run())
        ready.set()
        await work

    threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
    ready.wait()
    requests.send(
        port=state["port"],
        seconds_load=loaded - start,
        seconds_warmup=warm - loaded,
        versions={name: importlib.metadata.version(name) for name in packages},
    )

    def facts(request):
        batcher = state["batcher"]
        answer = {"resident_mib": resident_mib(), "peak_mib": peak_mib()}
        answer |= {"rows": batcher.rows, "batches": batcher.batches}
        return answer

    requests.serve(facts)


if __name__ == "__main__":
    pipes = Requests()
    serve(pipes, pipes.setup())
