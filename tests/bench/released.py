"""The released code's pattern of requests, for comparison; its shape alone, no line of it.

Each call is a model listing, a tokenise call, another listing and the chat, each on a client of its
own, all in series: 8 n + 44 requests for a problem of n sub-problems.
"""

from __future__ import annotations

import time

import httpx

from tests.bench.reply_server import PARTS, Replies

DECOMPOSE, SELECT, OTHERS = 8, 1, 2  # chats of a problem beside n ratings and n solutions


def solve_as_released(server: Replies, problem: str) -> tuple[float, float]:
    """Solve one problem; returns (seconds, seconds of the solving chats alone)."""
    began, solving = time.perf_counter(), 0.0
    for _ in range(DECOMPOSE + SELECT + OTHERS + PARTS):
        call(server, problem)
    for _ in range(PARTS):
        solving += call(server, problem)
    return time.perf_counter() - began, solving


def call(server: Replies, prompt: str) -> float:
    """One call in four requests; returns the seconds of the last one."""
    messages = [{"role": "user", "content": prompt}]
    ask(server, "GET", "/v1/models")
    ask(server, "POST", "/tokenize", {"model": server.model, "messages": messages})
    ask(server, "GET", "/v1/models")
    began = time.perf_counter()
    body = {"model": server.model, "messages": messages, "max_tokens": 8192, "seed": 0}
    ask(server, "POST", "/v1/chat/completions", body)
    return time.perf_counter() - began


def ask(server: Replies, method: str, path: str, body: object = None) -> object:
    with httpx.Client(timeout=60) as client:
        return client.request(method, server.url + path, json=body).json()
