"""What testcontainers for Python asks of an engine, and what it must get.

Run by the suite against Dhow and, where one is installed, against dockerd: a
check that the reference fails is wrong. `DOCKER_HOST` names the engine, which
has an image `busybox`; `docker` has the plugin for Compose. Checks named
`service_*` want an image `services` with real servers in it. All that are named
on the command line are run; `all` and `services` name them by kind. The last
line says how many passed.
"""

import os
import pathlib
import socket
import sys
import tempfile
import traceback
import urllib.request

# Its image cannot be pulled here; containers are removed by their contexts.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

from docker.errors import NotFound
from docker.types import Healthcheck
from testcontainers.compose import DockerCompose
from testcontainers.core.container import DockerContainer, ExecConfig
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import (
    CompositeWaitStrategy,
    ContainerStatusWaitStrategy,
    ExecWaitStrategy,
    FileExistsWaitStrategy,
    HealthcheckWaitStrategy,
    HttpWaitStrategy,
    LogMessageWaitStrategy,
    PortWaitStrategy,
)

IMAGE = "busybox"
SERVER = "mkdir -p /www && echo served > /www/index.html && echo ready && exec httpd -f -v -p 8000 -h /www"


def container(*command):
    return DockerContainer(IMAGE).with_command(list(command or ("sleep", "1000")))


def server():
    return DockerContainer(IMAGE).with_command(["sh", "-c", SERVER]).with_exposed_ports(8000)


def soon(strategy, seconds=20):
    return strategy.with_startup_timeout(seconds).with_poll_interval(0.05)


def read(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def refused(kind, work):
    try:
        work()
    except kind as error:
        return str(error)
    raise AssertionError(f"did not raise {kind.__name__}")


def check_log(_):
    strategy = soon(LogMessageWaitStrategy(r"^read.$"))
    with server().waiting_for(strategy) as running:
        out, err = running.get_logs()
        assert out == b"ready\n" and err == b"", (out, err)
    both = container("sh", "-c", "echo out word; echo err word >&2; exec sleep 1000")
    strategy = soon(LogMessageWaitStrategy("word", predicate_streams_and=True))
    with both.waiting_for(strategy) as running:
        assert running.get_logs() == (b"out word\n", b"err word\n")


def check_log_that_never_comes(_):
    slow = container().waiting_for(soon(LogMessageWaitStrategy("never"), 1))
    assert "Container status: running" in refused(TimeoutError, slow.__enter__)
    # One that ended is told apart from one that is slow.
    over = container("sh", "-c", "exit 3").waiting_for(soon(LogMessageWaitStrategy("never")))
    assert "exit code: 3" in refused(RuntimeError, over.__enter__)
    with container("sh", "-c", "exit 3") as over:
        assert over.wait() == 3
        refused(TimeoutError, lambda: soon(ContainerStatusWaitStrategy(), 1).wait_until_ready(over))


def check_port(_):
    with server().waiting_for(soon(PortWaitStrategy(8000))) as running:
        address = (running.get_container_host_ip(), running.get_exposed_port(8000))
        socket.create_connection(address, timeout=5).close()


def check_http(_):
    strategy = soon(HttpWaitStrategy(8000, "/index.html").for_status_code(200).for_response_predicate(lambda body: "served" in body))
    with server().waiting_for(strategy) as running:
        url = f"http://{running.get_container_host_ip()}:{running.get_exposed_port(8000)}/"
        assert read(url) == b"served\n"
        missing = soon(HttpWaitStrategy(8000, "/none").for_status_code(404))
        missing.wait_until_ready(running)


def check_health(_):
    probe = Healthcheck(test=["CMD", "test", "-e", "/up"], interval=200_000_000, retries=100)
    slow = container("sh", "-c", "sleep 1; touch /up; exec sleep 1000").with_kwargs(healthcheck=probe)
    with slow.waiting_for(soon(HealthcheckWaitStrategy())) as running:
        assert running.get_wrapped_container().health == "healthy"
    sick = Healthcheck(test=["CMD-SHELL", "echo sick; false"], interval=200_000_000, retries=2)
    ill = container().with_kwargs(healthcheck=sick).waiting_for(soon(HealthcheckWaitStrategy()))
    said = refused(RuntimeError, ill.__enter__)
    assert "sick" in said and "Exit code: 1" in said, said
    said = refused(RuntimeError, container().waiting_for(soon(HealthcheckWaitStrategy())).__enter__)
    assert "No health check configured" in said, said


def check_exec_and_both(_):
    both = CompositeWaitStrategy(LogMessageWaitStrategy("ready"), ExecWaitStrategy(["test", "-e", "/www/index.html"]))
    with server().waiting_for(soon(both)) as running:
        result = running.exec(["sh", "-c", "echo out; exit 4"])
        assert (result.exit_code, result.output) == (4, b"out\n"), result
        result = running.exec(ExecConfig(command=["sh", "-c", "echo $A; id -u; pwd"], environment={"A": "b"}, user="65534", workdir="/www"))
        assert result.output == b"b\n65534\n/www\n", result
    with container().waiting_for(soon(ExecWaitStrategy(["sh", "-c", "exit 3"], expected_exit_code=3))):
        pass


def check_options(folder):
    (folder / "words.env").write_text("FROM_FILE=file\n")
    (folder / "data.txt").write_text("mapped\n")
    made = (
        container()
        .with_name("tc-named")
        .with_env("ONE", "1")
        .with_envs(TWO="2", THREE="3")
        .with_env_file(folder / "words.env")
        .with_volume_mapping(folder / "data.txt", "/data.txt", "ro")
        .with_tmpfs_mount("/scratch", "size=1m")
        .with_kwargs(mem_limit="32m", cap_drop=["ALL"], labels={"who": "tc"})
    )
    with made as running:
        told = running.exec(["sh", "-c", "echo $ONE $TWO $THREE $FROM_FILE; cat /data.txt; grep -c ' /scratch tmpfs' /proc/mounts"])
        assert told.output == b"1 2 3 file\nmapped\n1\n", told.output
        info = running.get_container_info()
        assert info.Name == "/tc-named" and info.HostConfig.Memory == 32 << 20, info
        assert info.Config.Labels["who"] == "tc" and info.State.Running
        session = info.Config.Labels["org.testcontainers.session-id"]
        client = running.get_docker_client().client
        found = client.containers.list(filters={"label": f"org.testcontainers.session-id={session}"})
        assert [one.name for one in found] == ["tc-named"]
    refused(NotFound, lambda: client.containers.get("tc-named"))


def check_bound_port(_):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with server().with_bind_ports("8000/tcp", port).waiting_for(soon(PortWaitStrategy(8000))) as running:
        assert running.get_exposed_port(8000) == port
        assert read(f"http://127.0.0.1:{port}/") == b"served\n"


def check_network_and_aliases(_):
    with Network() as network:
        first = server().with_network(network).with_network_aliases("www", "web")
        with first.waiting_for(soon(LogMessageWaitStrategy("ready"))) as serving:
            with container().with_network(network) as asking:
                for name in ("www", "web"):
                    result = asking.exec(["wget", "-qO-", f"http://{name}:8000/"])
                    assert result == (0, b"served\n"), result
                client = serving.get_docker_client()
                inner = client.bridge_ip(serving.get_container_id())
                assert asking.exec(["wget", "-qO-", f"http://{inner}:8000/"]).output == b"served\n"
                assert client.network_name(serving.get_container_id()) == network.name
                assert inner.rsplit(".", 1)[0] == client.gateway_ip(serving.get_container_id()).rsplit(".", 1)[0]


def check_files(folder):
    tree = folder / "tree"
    tree.mkdir()
    (tree / "leaf").write_text("leaf\n")
    (folder / "plain").write_text("plain\n")
    # The program tells by a mapped folder that the file was there before it began.
    script = "test -e /early/file && touch /out/seen; exec sleep 1000"
    made = container("sh", "-c", script).with_copy_into_container(b"early\n", "/early/file", 0o600)
    made.with_volume_mapping(folder, "/out", "rw")
    with made.waiting_for(soon(FileExistsWaitStrategy(folder / "seen"))) as running:
        assert running.exec(["stat", "-c", "%a %s", "/early/file"]).output == b"600 6\n"
        running.copy_into_container(folder / "plain", "/deep/er/plain")
        running.copy_into_container(tree, "/copied")
        assert running.exec(["cat", "/deep/er/plain", "/copied/tree/leaf"]).output == b"plain\nleaf\n"
        running.exec(["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x > /large"])
        running.copy_from_container("/large", folder / "large")
        assert (folder / "large").read_bytes() == b"x" * 300_000
        refused(NotFound, lambda: running.copy_from_container("/none", folder / "none"))


def check_image(folder):
    (folder / "Dockerfile").write_text('FROM busybox\nARG WORD\nRUN echo built $WORD > /built\nHEALTHCHECK --interval=1s CMD true\nCMD ["sh", "-c", "cat /built; exec sleep 1000"]\n')
    with DockerImage(path=folder, tag="tc-built:1", buildargs={"WORD": "here"}) as image:
        assert any("Successfully built" in str(line.get("stream", "")) for line in image.get_logs())
        with DockerContainer(str(image)).waiting_for(soon(LogMessageWaitStrategy("built here"))) as running:
            assert running.get_wrapped_container().image.tags == ["tc-built:1"]


STACK = """
services:
  web:
    image: busybox
    command: sh -c '%s'
    ports: ["127.0.0.1::8000"]
    healthcheck: {test: ["CMD", "test", "-e", "/www/index.html"], interval: 200ms, retries: 50}
    volumes: ["data:/data"]
  extra:
    image: busybox
    command: sleep 1000
    stop_grace_period: 0s
    profiles: [more]
    environment: {WORD: "${WORD:-none}"}
volumes: {data: {}}
"""


def check_compose(folder):
    (folder / "stack.yaml").write_text(STACK % SERVER)
    (folder / "words.env").write_text("WORD=told\n")
    options = dict(compose_file_name="stack.yaml", profiles=["more"], env_file=str(folder / "words.env"))
    strategies = {"web": soon(LogMessageWaitStrategy("ready"))}
    with DockerCompose(folder, **options).waiting_for(strategies) as stack:
        host, port = stack.get_service_host_and_port("web", 8000)
        assert read(f"http://{host}:{port}/") == b"served\n"
        stack.wait_for(f"http://{host}:{port}/")
        out, err, code = stack.exec_in_container(["sh", "-c", "echo $WORD; exit 0"], "extra")
        assert (out, code) == ("told\n", 0), (out, err, code)
        assert sorted(one.Service for one in stack.get_containers()) == ["extra", "web"]
        web = stack.get_container("web")
        assert (web.State, web.Health) == ("running", "healthy"), web
        assert web.get_container_info().Config.Labels["com.docker.compose.service"] == "web"
        assert "ready" in stack.get_logs("web")[0]
        assert stack.get_config()["services"]["web"]["image"] == "busybox"
    client = container().get_docker_client().client
    assert client.volumes.list(filters={"name": "_data"}) == []


def service_nginx(_):
    nginx = DockerContainer("services").with_command(["nginx", "-g", "daemon off;"]).with_exposed_ports(80)
    strategy = soon(HttpWaitStrategy(80).for_response_predicate(lambda body: "Welcome to nginx" in body))
    with nginx.waiting_for(strategy) as running:
        assert running.exec(["nginx", "-t"]).exit_code == 0


def service_redis(_):
    redis = DockerContainer("services").with_command(["redis-server", "--protected-mode", "no", "--save", ""])
    with Network() as network:
        redis.with_network(network).with_network_aliases("store").with_exposed_ports(6379)
        with redis.waiting_for(soon(LogMessageWaitStrategy("Ready to accept connections"))) as running:
            with socket.create_connection((running.get_container_host_ip(), running.get_exposed_port(6379)), timeout=5) as client:
                client.sendall(b"SET colour blue\r\n")
                assert client.recv(64) == b"+OK\r\n"
            asking = DockerContainer("services").with_command(["sleep", "1000"]).with_network(network)
            with asking.waiting_for(soon(ExecWaitStrategy(["redis-cli", "-h", "store", "ping"]))) as other:
                assert other.exec(["redis-cli", "-h", "store", "get", "colour"]).output == b"blue\n"


def service_postgresql(_):
    program = "/usr/lib/postgresql/15/bin"
    script = f"{program}/initdb -A trust -D /tmp/data && exec {program}/postgres -D /tmp/data -k /tmp -c listen_addresses='*'"
    made = DockerContainer("services").with_command(["sh", "-c", script]).with_exposed_ports(5432)
    made.with_kwargs(user="postgres", shm_size="64m", stop_signal="INT")
    ready = CompositeWaitStrategy(LogMessageWaitStrategy("ready to accept connections"), ExecWaitStrategy(["pg_isready", "-h", "/tmp"]))
    with made.waiting_for(soon(ready, 60)) as running:
        query = ["psql", "-qAt", "-h", "/tmp", "-c", "select sum(n) from generate_series(1, 100) n"]
        assert running.exec(query).output == b"5050\n"
        # It answers a client from outside: N, no TLS.
        with socket.create_connection((running.get_container_host_ip(), running.get_exposed_port(5432)), timeout=5) as client:
            client.sendall((8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"))
            assert client.recv(1) == b"N"


def main():
    checks = {name: check for name, check in globals().items() if name.startswith(("check_", "service_"))}
    wanted = []
    for word in sys.argv[1:]:
        prefix = {"all": "check_", "services": "service_"}.get(word, word)
        wanted += [name for name in checks if name.startswith(prefix)]
    failed = []
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            try:
                checks[name](pathlib.Path(folder))
                print(f"ok {name}", flush=True)
            except Exception:
                failed.append(name)
                print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
    print(f"{len(wanted) - len(failed)} of {len(wanted)} checks passed")
    sys.exit(bool(failed) or not wanted)


if __name__ == "__main__":
    main()
