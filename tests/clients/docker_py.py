"""What Docker's SDK for Python asks of an engine, and what it must get.

Run by the suite against Dhow and, where one is installed, against dockerd: a
check that the reference fails is wrong. `DOCKER_HOST` names the engine, which
has an image `busybox`. Each check is a function `check_*`; all that are named
on the command line are run, or all. The last line says how many passed.
"""

import io
import json
import os
import socket
import sys
import tarfile
import threading
import traceback

import docker
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
from docker.types import EndpointConfig, Healthcheck, LogConfig, Mount, Ulimit

IMAGE = "busybox"
PREFIX = "sdk"


def name(what):
    return f"{PREFIX}-{what}"


class Removing:
    """Removes a container, whatever the check did with it."""

    def __init__(self, container):
        self.container = container

    def __enter__(self):
        return self.container

    def __exit__(self, *_):
        try:
            self.container.remove(force=True, v=True)
        except NotFound:
            pass


def running(client, command="sleep 1000", **options):
    return Removing(client.containers.run(IMAGE, command, detach=True, **options))


def created(client, command="true", **options):
    return Removing(client.containers.create(IMAGE, command, **options))


def expect(status, work, part=""):
    try:
        work()
    except APIError as error:
        assert error.response.status_code == status, f"{error.response.status_code}: {error}"
        assert part in str(error), f"{part!r} is not in {error}"
        return
    raise AssertionError(f"was not refused with {status}")


def check_ping_version_info(client):
    assert client.ping() is True
    version = client.version()
    assert version["Os"] == "linux" and "Version" in version and "ApiVersion" in version
    info = client.info()
    for field in ("ID", "Containers", "Images", "Driver", "NCPU", "MemTotal", "Name", "CgroupVersion"):
        assert field in info, field


def check_run_returns_output(client):
    assert client.containers.run(IMAGE, ["echo", "hi"], remove=True) == b"hi\n"
    both = client.containers.run(IMAGE, ["sh", "-c", "echo a; echo b >&2"], remove=True, stdout=True, stderr=True)
    assert sorted(both.split()) == [b"a", b"b"], both
    try:
        client.containers.run(IMAGE, ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    except ContainerError as error:
        assert error.exit_status == 3 and b"bad" in error.stderr
    else:
        raise AssertionError("an exit code of 3 is an error")


def check_lifecycle(client):
    with created(client, "sleep 1000", name=name("life"), labels={"who": "sdk"}) as container:
        assert container.status == "created"
        container.start()
        container.reload()
        assert container.status == "running" and container.attrs["State"]["Pid"] > 0
        container.pause()
        container.reload()
        assert container.status == "paused" and container.attrs["State"]["Paused"]
        container.unpause()
        container.rename(name("lived"))
        assert client.containers.get(name("lived")).id == container.id
        container.restart(timeout=0)
        container.stop(timeout=0)
        container.reload()
        assert container.status == "exited" and container.attrs["State"]["ExitCode"] == 137
        expect(409, lambda: container.kill(), "not running")
        assert container.wait()["StatusCode"] == 137
        listed = client.containers.list(all=True, filters={"label": "who=sdk"})
        assert [found.id for found in listed] == [container.id]


def check_list_filters(client):
    with running(client, name=name("one"), labels={"group": "g1"}), created(client, name=name("two"), labels={"group": "g2"}):
        names = lambda **filters: sorted(c.name for c in client.containers.list(all=True, filters=filters))
        assert names(status="running", name=name("one")) == [name("one")]
        assert names(status="created", name="sdk-t") == [name("two")]
        assert names(label=["group=g1"]) == [name("one")]
        assert names(ancestor=IMAGE, label="group") == [name("one"), name("two")]
        expect(400, lambda: names(nonsense="x"), "nvalid filter 'nonsense'")


def check_logs(client):
    script = "echo one; echo two >&2; echo three"
    with running(client, ["sh", "-c", script], name=name("logs")) as container:
        container.wait()
        assert container.logs() == b"one\ntwo\nthree\n" or sorted(container.logs().split()) == [b"one", b"three", b"two"]
        assert container.logs(stderr=False) == b"one\nthree\n"
        assert container.logs(stdout=False) == b"two\n"
        stamped = container.logs(stderr=False, timestamps=True).splitlines()[-1]
        assert stamped.endswith(b" three") and stamped[4:5] == b"-"
        assert b"".join(container.logs(stream=True, follow=True, stderr=False)) == b"one\nthree\n"
        assert container.logs(since=4102444800) == b""
    with running(client, ["sh", "-c", "echo one; echo two; echo three"], name=name("tail")) as container:
        container.wait()
        assert container.logs(tail=1) == b"three\n"
        assert container.logs(tail=2, stderr=False) == b"two\nthree\n"


def check_attach(client):
    script = "while read line; do echo got $line; done"
    with created(client, ["sh", "-c", script], stdin_open=True, tty=False, name=name("attach")) as container:
        stream = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        container.start()
        raw = stream._sock
        raw.sendall(b"hello\n")
        frame = raw.recv(8, socket.MSG_WAITALL)
        assert frame[0] == 1, frame
        length = int.from_bytes(frame[4:], "big")
        assert raw.recv(length, socket.MSG_WAITALL) == b"got hello\n"
        raw.shutdown(socket.SHUT_WR)
        stream.close()


def check_exec(client):
    with running(client, name=name("exec")) as container:
        result = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 7"], demux=True)
        assert result.exit_code == 7 and result.output == (b"out\n", b"err\n"), result
        assert container.exec_run("pwd", workdir="/tmp").output == b"/tmp\n"
        assert container.exec_run("env", environment={"A": "b"}).output.count(b"A=b\n") == 1
        assert container.exec_run("id -u", user="65534").output == b"65534\n"
        streamed = container.exec_run(["sh", "-c", "echo 1; echo 2"], stream=True)
        assert b"".join(streamed.output) == b"1\n2\n"
        assert container.exec_run(["sh", "-c", "test -t 0 && echo terminal"], tty=True).output == b"terminal\r\n"
        prepared = client.api.exec_create(container.id, ["cat"], stdin=True)
        stream = client.api.exec_start(prepared["Id"], socket=True)
        stream._sock.sendall(b"echo\n")
        stream._sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := stream._sock.recv(4096):
            answer += piece
        assert answer[8:] == b"echo\n", answer
        seen = client.api.exec_inspect(prepared["Id"])
        assert seen["ExitCode"] == 0 and seen["Running"] is False and seen["ContainerID"] == container.id
        expect(404, lambda: client.api.exec_inspect("0" * 64), "No such exec")
        container.stop(timeout=0)
        expect(409, lambda: container.exec_run("true"), "is not running")


def check_archives(client):
    with created(client, name=name("archive")) as container:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            header = tarfile.TarInfo("file.txt")
            header.size = 5
            archive.addfile(header, io.BytesIO(b"hello"))
        assert container.put_archive("/tmp", packed.getvalue()) is True
        chunks, stat = container.get_archive("/tmp/file.txt")
        assert stat["name"] == "file.txt" and stat["size"] == 5
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            assert archive.extractfile("file.txt").read() == b"hello"
        expect(404, lambda: container.get_archive("/nowhere"), "Could not find the file /nowhere")
        changes = {change["Path"]: change["Kind"] for change in container.diff()}
        assert changes["/tmp/file.txt"] == 1
        with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as archive:
            assert "tmp/file.txt" in archive.getnames()


def check_host_config(client):
    options = dict(
        mem_limit="64m",
        memswap_limit="128m",
        cpu_shares=512,
        nano_cpus=500_000_000,
        pids_limit=50,
        shm_size="32m",
        cap_add=["NET_ADMIN"],
        cap_drop=["MKNOD"],
        read_only=True,
        tmpfs={"/scratch": "size=1m"},
        ulimits=[Ulimit(name="nofile", soft=100, hard=200)],
        sysctls={"net.ipv4.ip_forward": "0"},
        extra_hosts={"far": "10.1.2.3"},
        dns=["10.9.9.9"],
        environment={"A": "b"},
        hostname="hosty",
        user="65534:65534",
        working_dir="/tmp",
        stop_signal="SIGUSR1",
        security_opt=["no-new-privileges"],
        init=True,
        group_add=["10"],
        oom_score_adj=500,
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
        log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"}),
        healthcheck=Healthcheck(test=["CMD", "true"], interval=10**9),
    )
    with running(client, name=name("host"), **options) as container:
        container.reload()
        host, config = container.attrs["HostConfig"], container.attrs["Config"]
        assert host["Memory"] == 64 << 20 and host["MemorySwap"] == 128 << 20
        assert host["NanoCpus"] == 500_000_000 and host["PidsLimit"] == 50
        assert host["ShmSize"] == 32 << 20 and host["ReadonlyRootfs"] is True
        assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
        assert config["Hostname"] == "hosty" and config["StopSignal"] == "SIGUSR1"
        run = lambda command: container.exec_run(["sh", "-c", command]).output.decode().strip()
        assert run("hostname") == "hosty" and run("id -u") == "65534" and run("pwd") == "/tmp"
        assert run("ulimit -n") == "100" and run("ulimit -Hn") == "200"
        assert "10.1.2.3" in run("cat /etc/hosts") and "far" in run("cat /etc/hosts")
        assert run("echo $A") == "b"
        assert run("touch /file 2>&1").endswith("Read-only file system")
        assert run("grep NoNewPrivs /proc/self/status").split()[1] == "1"
        assert "size=1024k" in run("grep /scratch /proc/mounts")


def check_bad_requests(client):
    expect(404, lambda: client.containers.create("no-such-image:1", "true"), "No such image")
    expect(404, lambda: client.containers.get("nobody"), "No such container: nobody")
    with created(client, name=name("taken")):
        expect(409, lambda: client.containers.create(IMAGE, name=name("taken")), "is already in use by container")
    expect(400, lambda: client.containers.create(IMAGE, "true", mem_limit="1m"), "Minimum memory limit")
    expect(400, lambda: client.containers.create(IMAGE, "true", name="no spaces"), "Invalid container name")
    expect(400, lambda: client.containers.create(IMAGE, "true", working_dir="relative"), "needs to be an absolute path")
    with created(client, ["/no/such/program"], name=name("nothing")) as container:
        expect(400, container.start, "no such file or directory")
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 127


def check_networks(client):
    network = client.networks.create(name("net"), labels={"a": "b"}, check_duplicate=True)
    try:
        assert network.attrs["Driver"] == "bridge" and network.attrs["Labels"] == {"a": "b"}
        with running(client, ["sh", "-c", "echo served > /tmp/index.html; exec httpd -f -h /tmp"], name=name("server"), network=network.name) as server:
            got = client.containers.run(IMAGE, f"wget -qO- http://{name('server')}/", network=network.name, remove=True)
            assert got == b"served\n", got
            with running(client, name=name("joiner")) as joiner:
                network.connect(joiner, aliases=["other-name"])
                network.reload()
                assert {c.name for c in network.containers} == {name("server"), name("joiner")}
                result = joiner.exec_run(f"wget -qO- http://{name('server')}/")
                assert result.output == b"served\n", result
                assert server.exec_run("nslookup other-name").exit_code == 0
                network.disconnect(joiner)
                joiner.reload()
                assert network.name not in joiner.attrs["NetworkSettings"]["Networks"]
            expect(403, network.remove, "active endpoints")
    finally:
        network.remove()
    expect(404, lambda: client.networks.get(network.id), "not found")


def check_ports(client):
    with running(client, ["sh", "-c", "echo hi > /tmp/index.html; exec httpd -f -h /tmp"], ports={"80/tcp": None}, name=name("ports")) as container:
        container.reload()
        bindings = container.ports["80/tcp"]
        port = int(bindings[0]["HostPort"])
        serves = container.exec_run(["sh", "-c", "until wget -q -O /dev/null http://127.0.0.1/; do :; done"])
        assert serves.exit_code == 0, serves
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
        assert answer.endswith(b"hi\n"), answer


def check_volumes(client):
    volume = client.volumes.create(name("data"), labels={"x": "y"})
    try:
        assert volume.attrs["Driver"] == "local" and volume.attrs["Labels"] == {"x": "y"}
        mounts = [Mount("/data", volume.name)]
        client.containers.run(IMAGE, ["sh", "-c", "echo kept > /data/file"], mounts=mounts, remove=True)
        kept = client.containers.run(IMAGE, "cat /data/file", volumes={volume.name: {"bind": "/data", "mode": "ro"}}, remove=True)
        assert kept == b"kept\n"
        with created(client, mounts=mounts):
            expect(409, volume.remove, "volume is in use")
        assert volume.name in {v.name for v in client.volumes.list(filters={"dangling": True})}
    finally:
        volume.remove()
    expect(404, lambda: client.volumes.get(name("data")), "no such volume")
    memory = client.volumes.create(name("memory"), driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=0700"})
    try:
        mounts = [Mount("/m", memory.name)]
        shown = client.containers.run(IMAGE, "grep /m /proc/mounts", mounts=mounts, remove=True)
        assert b"tmpfs" in shown and b"size=1024k" in shown, shown
    finally:
        memory.remove()


def check_images(client):
    image = client.images.get(IMAGE)
    assert image.tag(name("copy"), tag="v1") is True
    assert f"{name('copy')}:v1" in client.images.get(image.id).tags
    assert any(f"{name('copy')}:v1" in found.tags for found in client.images.list())
    assert len(image.history()) >= 1
    archive = b"".join(client.images.get(f"{name('copy')}:v1").save(named=f"{name('copy')}:v1"))
    client.images.remove(f"{name('copy')}:v1")
    try:
        client.images.get(f"{name('copy')}:v1")
    except ImageNotFound:
        pass
    else:
        raise AssertionError("its name is gone")
    assert client.images.load(archive)[0].id == image.id
    client.images.remove(f"{name('copy')}:v1")
    with created(client, name=name("commit")) as container:
        made = container.commit(repository=name("made"), tag="1", changes="ENV COMMITTED=yes")
        assert "COMMITTED=yes" in made.attrs["Config"]["Env"]
        client.images.remove(made.id, force=True)


def check_build(client):
    dockerfile = b"FROM busybox\nRUN echo built > /built\nLABEL made=here\nCMD cat /built\n"
    image, lines = client.images.build(fileobj=io.BytesIO(dockerfile), tag=name("built"), rm=True)
    try:
        assert image.labels["made"] == "here"
        assert any("Step" in line.get("stream", "") for line in lines)
        assert client.containers.run(image, remove=True) == b"built\n"
    finally:
        client.images.remove(image.id, force=True)
    broken = b"FROM busybox\nRUN false\n"
    try:
        client.images.build(fileobj=io.BytesIO(broken), rm=True, forcerm=True)
    except docker.errors.BuildError as error:
        assert "returned a non-zero code: 1" in str(error)
    else:
        raise AssertionError("it does not build")


def check_stats_top_update(client):
    with running(client, name=name("use")) as container:
        stats = container.stats(stream=False)
        assert stats["memory_stats"]["usage"] > 0 and stats["name"] == f"/{name('use')}"
        first = next(container.stats(stream=True, decode=True))
        assert "cpu_stats" in first and "networks" in first
        top = container.top()
        assert "PID" in top["Titles"] and len(top["Processes"]) == 1
        container.update(mem_limit="96m", memswap_limit="96m", restart_policy={"Name": "always"})
        container.reload()
        assert container.attrs["HostConfig"]["Memory"] == 96 << 20
        assert container.attrs["HostConfig"]["RestartPolicy"]["Name"] == "always"


def check_events(client):
    seen, ready = [], threading.Event()
    events = client.events(decode=True, filters={"type": "container", "container": name("event")})

    def collect():
        for event in events:
            seen.append(event)
            if event["Action"] == "destroy":
                ready.set()
                return

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    with running(client, "true", name=name("event")) as container:
        container.wait()
    assert ready.wait(10), seen
    actions = [event["Action"] for event in seen]
    assert [a for a in actions if a in ("create", "start", "die", "destroy")] == ["create", "start", "die", "destroy"], actions
    die = next(event for event in seen if event["Action"] == "die")
    attributes = die["Actor"]["Attributes"]
    assert attributes["exitCode"] == "0" and attributes["image"].startswith(IMAGE)
    # The fields of old are gone from 1.52 on.
    if tuple(map(int, client.api._version.split("."))) < (1, 52):
        assert die["from"].startswith(IMAGE) and die["status"] == "die" and die["id"]
    past = list(client.events(since=die["time"], until=die["time"] + 1, decode=True, filters={"event": "die"}))
    assert any(event["Actor"]["ID"] == die["Actor"]["ID"] for event in past)


def check_wait_conditions(client):
    with created(client, ["sh", "-c", "exit 5"], name=name("wait")) as container:
        got = {}
        waiting = threading.Thread(target=lambda: got.update(container.wait(condition="next-exit")))
        waiting.start()
        container.start()
        waiting.join(10)
        assert got["StatusCode"] == 5, got
        assert container.wait()["StatusCode"] == 5


def check_prune(client):
    with created(client, name=name("prune"), labels={"prune": "me"}) as container:
        kept = client.containers.prune(filters={"label": "prune=me", "until": "1h"})
        assert not kept["ContainersDeleted"]
        gone = client.containers.prune(filters={"label": "prune=me"})
        assert gone["ContainersDeleted"] == [container.id] and gone["SpaceReclaimed"] >= 0
    network = client.networks.create(name("unused"), labels={"prune": "me"})
    assert client.networks.prune(filters={"label": "prune=me"})["NetworksDeleted"] == [network.name]


def check_fixed_address(client):
    pool = docker.types.IPAMPool(subnet="10.213.7.0/24", gateway="10.213.7.254")
    network = client.networks.create(name("fixed"), driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]))
    try:
        config = {network.name: EndpointConfig(client.api._version, ipv4_address="10.213.7.77", aliases=["seven"])}
        with running(client, name=name("fixed"), network=network.name, networking_config=config) as container:
            container.reload()
            settings = container.attrs["NetworkSettings"]["Networks"][network.name]
            assert settings["IPAddress"] == "10.213.7.77" and settings["Gateway"] == "10.213.7.254", settings
            assert "seven" in settings["Aliases"]
    finally:
        network.remove()


def check_disk_usage(client):
    usage = client.df()
    for field in ("LayersSize", "Images", "Containers", "Volumes"):
        assert field in usage, field


def main():
    wanted = sys.argv[1:]
    client = docker.from_env(timeout=60, version=os.environ.get("API", "auto"))
    checks = {k[6:]: v for k, v in globals().items() if k.startswith("check_")}
    failed = []
    for title, check in checks.items():
        if wanted and title not in wanted:
            continue
        try:
            check(client)
            print(f"ok {title}", flush=True)
        except Exception:
            failed.append(title)
            print(f"FAILED {title}\n{traceback.format_exc()}", flush=True)
    total = len(wanted or checks)
    print(f"{total - len(failed)} of {total} checks passed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
