"""`python -m tests.links` against a server of its own: what is broken is said, what keeps programs out is not."""
from __future__ import annotations

import http.server
import threading

import nbformat
import pytest

from tests import links

CODES = {"/good": 200, "/moved": 301, "/gone": 410, "/absent": 404, "/forbidden": 403, "/often": 429, "/error": 500}


class Answer(http.server.BaseHTTPRequestHandler):
    def answer(self) -> None:
        self.server.asked.append((self.command, self.path))
        if self.path == "/slow":
            self.server.over.wait(60)
        if self.path == "/get" and self.command == "HEAD":
            return self.send_error(405)
        if self.path == "/flaky" and self.server.asked.count(("GET", "/flaky")) < 2:
            return self.send_error(503)
        code = CODES.get(self.path, 200)
        if code >= 400:
            return self.send_error(code)
        self.send_response(code)
        if code == 301:
            self.send_header("Location", "/good")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = answer

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that does not wait for a slow answer is no error here."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(links, "LOCAL", links.re.compile("https?://example"))  # the server is on this machine
    running = Server(("127.0.0.1", 0), Answer)
    running.asked, running.over = [], threading.Event()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.over.set()
    running.shutdown()
    running.server_close()


def shelf(root, server, *paths: str):
    """A shelf whose README and notebook hold these links."""
    urls = [f"http://127.0.0.1:{server.server_port}{path}" for path in paths]
    (root / "README.md").write_text("".join(f"- [a link]({url}).\n" for url in urls[::2]), encoding="utf-8")
    (root / "Chapter01").mkdir()
    cells = [nbformat.v4.new_markdown_cell(f"See <{url}#part>, or not.") for url in urls[1::2]]
    nbformat.write(nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell("x = 'http://127.0.0.1:9/code'")]),
                   root / "Chapter01/a.ipynb")
    return root


def run(root, capsys, timeout: float = 60) -> tuple[int, list[str]]:
    code = links.main(["--root", str(root), "--timeout", str(timeout), "--tries", "2", "--pause", "0.01"])
    return code, capsys.readouterr().out.splitlines()


def test_links_that_lead_somewhere_pass(server, tmp_path, capsys):
    code, lines = run(shelf(tmp_path, server, "/good", "/moved", "/get", "/flaky"), capsys)
    assert code == 0 and lines == ["4 links: 4 lead somewhere, 0 are broken, 0 are unclear"]


@pytest.mark.parametrize("path", ["/absent", "/gone"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_broken_link_is_named_with_its_place(server, tmp_path, capsys, path, number):
    paths = ["/good", "/good2"]
    paths[number] = path
    code, lines = run(shelf(tmp_path, server, *paths), capsys)
    assert code == 1 and len(lines) == 2 and lines[0].startswith("BROKEN") and path in lines[0]
    assert lines[0].endswith(("README.md", "Chapter01/a.ipynb")[number])


@pytest.mark.parametrize("path", ["/forbidden", "/often", "/error", "/slow"])
def test_a_server_that_does_not_say_is_named_and_tolerated(server, tmp_path, capsys, path):
    code, lines = run(shelf(tmp_path, server, path), capsys, timeout=1 if path == "/slow" else 60)
    assert code == 0 and len(lines) == 2 and lines[0].startswith("unclear") and path in lines[0]


def test_a_host_without_an_address_is_broken(server, tmp_path, capsys, monkeypatch):
    def unknown(*args, **kwargs):
        raise links.urllib.error.URLError(links.socket.gaierror(-2, "Name or service not known"))
    monkeypatch.setattr(links.urllib.request, "urlopen", unknown)
    code, lines = run(shelf(tmp_path, server, "/good"), capsys)
    assert code == 1 and lines[0].startswith("BROKEN") and "not known" in lines[0]


def test_links_are_taken_out_of_their_sentences():
    assert links.links_in(
        "See [this](https://a.org/x_(y)), <https://b.org/z#part> or https://c.org/q?r=1. "
        "[![badge](https://d.org/i.svg)](https://e.org/n.ipynb) `http://localhost:8888` (https://f.org/g) "
        "https://g.org/{name} http://127.0.0.1:9/x https://a.org/x_(y)") == [
            "https://a.org/x_(y)", "https://b.org/z", "https://c.org/q?r=1", "https://d.org/i.svg",
            "https://e.org/n.ipynb", "https://f.org/g"]


def test_the_shelf_has_links():
    found = {link for text in links.documents(links.ROOT).values() for link in links.links_in(text)}
    assert len(found) > 50 and all(link.startswith("http") and not link.endswith((")", ".", ",")) or "(" in link
                                   for link in found)
