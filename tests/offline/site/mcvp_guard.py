"""The closed network of the miniature world: what leaves the machine is refused by name, logged, and never sent.

Three layers, from the most exact name to the last resort:
1. hooks in the libraries that fetch (installed when the library is first imported) name a hub repository or a URL;
2. Python's own audit event of urllib names the URL;
3. Python's audit events of sockets name the host, whoever asks.

Every refusal is one line of the file $MCVP_OFFLINE_LOG (`notebook or -`, tab, what was asked), so that a run fails
even where the exception is swallowed. Loopback stays open.
"""
import functools
import importlib.abc
import importlib.machinery
import os
import socket
import sys
import urllib.parse

WHERE = "tests/offline/README.md"
DEAD_PROXY_PORT = 9  # where tests.offline.environment sends programs that use a proxy


class NotInTheWorld(ConnectionError):
    """Something was asked for that only the network could answer."""


def refuse(what):
    """Log the attempt and raise NotInTheWorld, naming it and where to add it."""
    log = os.environ.get("MCVP_OFFLINE_LOG")
    what = " ".join(str(what).split())
    if log:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{os.environ.get('MCVP_NOTEBOOK') or '-'}\t{what}\n")
    raise NotInTheWorld(f"{what}: not in the miniature world, and its network is closed. {WHERE} says how to add it.")


def is_local(host):
    """Whether a host, as a socket call names it, is this machine's loopback."""
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "replace")
    host = str(host or "").strip("[]").lower()
    return host in ("", "localhost", "::1", "0.0.0.0", "::") or host.startswith(("127.", "::ffff:127."))


def url_is_local(url):
    """Whether a URL stays on this machine: no host (file:, data:) or a loopback host."""
    return is_local(urllib.parse.urlsplit(str(url)).hostname)


def planted(url):
    """The file that the world holds for a URL, or None: below $MCVP_OFFLINE_URLS, by host and path."""
    parts = urllib.parse.urlsplit(str(url))
    steps = [parts.netloc, *(urllib.parse.unquote(step) for step in parts.path.split("/") if step)]
    home = os.environ.get("MCVP_OFFLINE_URLS")
    if not home or parts.scheme not in ("http", "https") or {"", ".", ".."} & set(steps):
        return None
    path = os.path.join(home, *steps)
    return path if os.path.isfile(path) else None


def on_event(event, arguments):
    """The audit hook: refuse requests and connections that leave the machine."""
    if event == "urllib.Request":
        if not url_is_local(arguments[0]) and planted(arguments[0]) is None:
            refuse(arguments[0])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
        if not is_local(host) and host != socket.gethostname():
            refuse(f"the host {host.decode() if isinstance(host, bytes) else host}")
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple) and address:
            if not is_local(address[0]):
                refuse(f"the host {address[0]}")
            if address[1:2] == (DEAD_PROXY_PORT,):
                refuse("something outside, through the proxy that closes the network")


# --- hooks in libraries -----------------------------------------------------------------------------------------------

def cause(error):
    """The refusal behind an exception that a library raised in its place, or None."""
    seen = []
    while error is not None and error not in seen:
        if isinstance(error, NotInTheWorld):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def wrap(owner, name, make):
    """Replace a module's or class's own `name`, where the installed version has it, by `make` of the function."""
    function = vars(owner).get(name)
    if isinstance(function, classmethod):
        setattr(owner, name, classmethod(functools.wraps(function.__func__)(make(function.__func__))))
    elif function is not None:
        setattr(owner, name, functools.wraps(function)(make(function)))


def keep_refusals(function):
    """`function`, letting a refusal out as it is where the library rephrases it."""
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except NotInTheWorld:
            raise
        except Exception as error:
            refusal = cause(error)
            if refusal is None:
                raise
            raise refusal from None
    return call


def torchvision_datasets(module):
    """Test-only waiver: files below the miniature TORCH_HOME count as whole without the md5 of the real ones."""
    def make(check_md5):
        def call(fpath, md5, *args, **kwargs):
            home = os.path.realpath(os.environ.get("TORCH_HOME") or os.curdir)
            return os.path.realpath(fpath).startswith(home + os.sep) or check_md5(fpath, md5, *args, **kwargs)
        return call
    wrap(module, "check_md5", make)


def httpx(module):
    """httpx and its kin: refuse by URL where a request would reach the network; a test client's own transport may."""
    def make(handle):
        def call(self, request, *args, **kwargs):
            if not url_is_local(request.url):
                refuse(request.url)
            return handle(self, request, *args, **kwargs)
        return call
    wrap(module.HTTPTransport, "handle_request", make)
    wrap(module.AsyncHTTPTransport, "handle_async_request", make)


def urllib_request(module):
    """urllib: answer a URL of the world from its file."""
    def make(open_url):
        def call(self, request):
            path = planted(request.full_url)
            if path is None:
                return open_url(self, request)
            from email.message import Message

            headers = Message()
            headers["Content-Length"] = str(os.path.getsize(path))
            answer = module.addinfourl(open(path, "rb"), headers, request.full_url, 200)
            answer.msg, answer.length = "OK", os.path.getsize(path)
            return answer
        return call
    wrap(module.HTTPHandler, "http_open", make)
    wrap(module.HTTPSHandler, "https_open", make)


def requests(module):
    """requests: answer a URL of the world from its file, refuse by URL where the request would reach the network."""
    def make(send):
        def call(self, request, *args, **kwargs):
            path = planted(request.url)
            if path is not None and "pip" not in module.__name__:
                answer = module.Response()
                answer.status_code, answer.reason, answer.url, answer.request = 200, "OK", request.url, request
                answer.headers["Content-Length"] = str(os.path.getsize(path))
                answer.raw = open(path, "rb")
                return answer
            if not url_is_local(request.url):
                refuse(request.url)
            return send(self, request, *args, **kwargs)
        return call
    wrap(module.HTTPAdapter, "send", make)


def hub_has(repo_id, repo_type, revision=None):
    """Whether the world holds a repository of the Hugging Face hub (at that revision, where one is named)."""
    kind, name = f"{repo_type or 'model'}s", str(repo_id).replace("/", "--")
    hub = os.path.join(os.environ.get("HF_HUB_CACHE", ""), f"{kind}--{name}")
    if revision is not None:
        return any(os.path.exists(os.path.join(hub, where, revision)) for where in ("refs", "snapshots"))
    prepared = os.path.join(os.environ.get("HF_DATASETS_CACHE", ""), str(repo_id).replace("/", "___"))
    return os.path.isdir(hub) or (repo_type == "dataset" and os.path.isdir(prepared))


def hub_name(repo_id, repo_type, revision=None):
    """A hub repository as the messages name it."""
    at = f" at revision {revision}" if revision else ""
    return f"the Hugging Face {repo_type or 'model'} {repo_id}{at}"


def hub_files(name):
    """Refuse a download from a hub repository that the world does not hold; a file that a held one lacks stays absent.

    Libraries ask a repository for files that it may lack, so that such an absence is no fault by itself; where it
    ends the call, the message says so.
    """
    def hook(module):
        def make(download):
            def call(repo_id, *args, **kwargs):
                repo_type, revision = kwargs.get("repo_type"), kwargs.get("revision")
                try:
                    return download(repo_id, *args, **kwargs)
                except Exception as error:
                    if type(error).__name__ != "LocalEntryNotFoundError":
                        raise
                    if not hub_has(repo_id, repo_type, revision or "main"):
                        refuse(hub_name(repo_id, repo_type, revision))
                    wanted = kwargs.get("filename") or (args[0] if args else "a file")
                    error.args = (f"{wanted} of {hub_name(repo_id, repo_type, revision)}: not in the miniature world. "
                                  f"{WHERE} says how to add it.",)
                    raise
            return call
        wrap(module, name, make)
    return hook


def hub_requests(module):
    """Refuse any other request to the hub about a repository that the world does not hold.

    About one that it holds, the library's own offline error comes, which most callers answer from the cache.
    """
    def make(check):
        def call(request, *args, **kwargs):
            parts = [part for part in urllib.parse.urlsplit(str(request.url)).path.split("/") if part]
            if parts[:1] == ["api"]:
                parts = parts[1:]
            kind = parts.pop(0)[:-1] if parts and parts[0] in ("models", "datasets", "spaces") else "model"
            repo_id = "/".join(parts[:2])
            if not hub_has(repo_id, kind):
                refuse(request.url)
            try:
                return check(request, *args, **kwargs)
            except Exception as error:
                held = hub_name(repo_id, kind)
                error.args = (f"{error} The miniature world holds no more than files of {held}: see {WHERE}.",)
                raise
        return call
    wrap(module, "hf_request_event_hook", make)


def datasets_load(module):
    """Refuse a dataset that is neither on this machine nor in the world."""
    def make(find):
        def call(path, *args, **kwargs):
            try:
                return find(path, *args, **kwargs)
            except ConnectionError:
                refuse(hub_name(path, "dataset"))
        return call
    wrap(module, "dataset_module_factory", make)


def ultralytics_cfg(module):
    """Let runs be saved in the world: where it sees pytest, ultralytics would save them beside its own package."""
    module.TESTS_RUNNING = False


def ray_usage(module):
    """Ray's head process asks, even with usage statistics off, whether the machine is one of a cloud: it is not."""
    def make(_):
        return lambda: "unknown"

    wrap(module, "get_cloud_from_metadata_requests", make)


def keeping(*names):
    """A hook that lets refusals out of the named functions (`Class.method` or `function`) of a module as they are."""
    def hook(module):
        for name in names:
            owner, _, attribute = name.rpartition(".")
            target = getattr(module, owner, None) if owner else module
            if target is not None:
                wrap(target, attribute, keep_refusals)
    return hook


HOOKS = {
    "urllib.request": urllib_request,
    "torchvision.datasets.utils": torchvision_datasets,
    "httpx._transports.default": httpx,
    "httpx2._transports.default": httpx,
    "requests.adapters": requests,
    "pip._vendor.requests.adapters": requests,
    "huggingface_hub.file_download": hub_files("hf_hub_download"),
    "huggingface_hub._snapshot_download": hub_files("snapshot_download"),
    "huggingface_hub.utils._http": hub_requests,
    "datasets.load": datasets_load,
    "diffusers.configuration_utils": keeping("ConfigMixin.load_config"),
    "ray._common.usage.usage_lib": ray_usage,
    "ultralytics.cfg": ultralytics_cfg,
    "ultralytics.utils.downloads": keeping("safe_download", "attempt_download_asset"),
}


class Finder(importlib.abc.MetaPathFinder):
    """Runs the hook of a module of HOOKS once the module has been executed."""

    def find_spec(self, fullname, path=None, target=None):
        hook = HOOKS.get(fullname)
        if hook is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            hook(module)

        spec.loader.exec_module = exec_module
        return spec


def close():
    """Close the network for this process; it cannot be opened again."""
    sys.addaudithook(on_event)
    sys.meta_path.insert(0, Finder())
    if "urllib.request" in sys.modules:  # the one module of HOOKS that may have been imported before
        urllib_request(sys.modules["urllib.request"])
