//! Docker Compose v2, as it is, in depth: what a project may say and what is
//! done with it. `clients.rs` has a first stack.

use dhow_testkit::{Dockerd, Project, at_dockerd, at_ours};

#[test]
fn dockerd_s_services_are_the_same() {
    at_dockerd(&[services_wait, files_and_words, limits, mistakes]);
}

#[test]
fn dockerd_s_projects_are_the_same() {
    at_dockerd(&[networks, everyday_commands, changed_sources]);
}

#[test]
fn services_wait_for_what_they_depend_on() {
    at_ours(services_wait);
}

fn services_wait(daemon: &dyn Dockerd) {
    const STACK: &str = r"
x-service: &service
  image: busybox
  command: sleep 1000
  stop_grace_period: 0s
services:
  database:
    <<: *service
    command: sh -c 'touch /up; exec sleep 1000'
    healthcheck: {test: [CMD, test, -e, /up], interval: 200ms, start_period: 10s}
  migrate:
    <<: *service
    command: sh -c 'echo migrated >> /data/state'
    volumes: ['data:/data']
    depends_on: {database: {condition: service_healthy}}
  app:
    <<: *service
    command: sh -c 'cat /data/state; exec sleep 1000'
    volumes: ['data:/data:ro']
    depends_on:
      migrate: {condition: service_completed_successfully}
      database: {condition: service_healthy, restart: true}
      debugger: {condition: service_started, required: false}
  debugger:
    <<: *service
    profiles: [debug]
  other:
    <<: *service
    profiles: [extra, more]
volumes: {data: {}}
";
    let project = Project::new(daemon, "order", STACK);
    project.ok("up --wait");
    let services = project.ok("ps --all --format {{.Service}}:{{.State}}:{{.ExitCode}}");
    let mut services: Vec<&str> = services.lines().collect();
    services.sort_unstable();
    assert_eq!(
        services,
        ["app:running:0", "database:running:0", "migrate:exited:0"]
    );
    assert_eq!(project.ok("logs --no-log-prefix app"), "migrated");
    let time = |service, field| project.inspect(service, &format!("{{{{.State.{field}}}}}"));
    assert!(time("database", "StartedAt") < time("migrate", "StartedAt"));
    assert!(time("migrate", "FinishedAt") <= time("app", "StartedAt"));

    // Who depends with `restart` is restarted with what it depends on.
    let before = time("app", "StartedAt");
    project.ok("restart --timeout 0 database");
    assert!(time("app", "StartedAt") > before);

    // Profiles add services; each by its own.
    project.ok("--profile debug up --wait");
    assert_eq!(time("debugger", "Status"), "running");
    project.ok("--profile more up --wait --no-recreate");
    let services = project.ok("--profile * ps --services");
    assert!(services.contains("other"), "{services}");
    project.ok("--profile debug stop --timeout 0 debugger");
    project.ok("--profile * down --volumes");

    // What does not complete keeps the others from starting.
    let broken = STACK.replace("echo migrated >> /data/state", "echo broken; exit 3");
    project.write("compose.yaml", &broken);
    let error = project.run(&["up", "--wait"]).fails(1);
    assert!(
        error.contains("didn't complete successfully: exit 3"),
        "{error}"
    );
    assert_eq!(time("app", "Status"), "created");
    // Nor does what is not healthy.
    let sick = STACK
        .replace("touch /up", "true")
        .replace("start_period: 10s", "retries: 1");
    project.write("compose.yaml", &sick);
    let error = project.run(&["up", "--wait"]).fails(1);
    assert!(error.contains("is unhealthy"), "{error}");
    project.ok("down --volumes");
}

#[test]
fn files_and_words_reach_the_containers() {
    at_ours(files_and_words);
}

fn files_and_words(daemon: &dyn Dockerd) {
    const STACK: &str = r#"
include: [more/compose.yaml]
services:
  reader:
    extends: {file: base.yaml, service: sleeper}
    user: "65534"
    environment:
      FROM_SHELL:
      DEFAULTED: ${NOWHERE:-fallback}
      FROM_DOTENV: ${DOTENV}
    env_file:
      - words.env
      - {path: missing.env, required: false}
    secrets:
      - from_file
      - {source: from_env, target: renamed, uid: "65534", gid: "65534", mode: 0400}
    configs:
      - plain
      - {source: inline, target: /etc/inline.conf, mode: 0444}
      - from_env_too
    labels: {of: reader}
secrets:
  from_file: {file: ./secret.txt}
  from_env: {environment: SECRET_WORD}
configs:
  plain: {file: ./plain.conf}
  inline: {content: "dotenv is ${DOTENV}\n"}
  from_env_too: {environment: SECRET_WORD}
"#;
    let project = Project::new(daemon, "words", STACK);
    project.write(".env", "DOTENV=dotenv\n");
    project.write("words.env", "FROM_FILE='a file'\nFROM_SHELL=overruled\n");
    project.write("secret.txt", "hidden\n");
    project.write("plain.conf", "plain\n");
    project.write(
        "base.yaml",
        "services: {sleeper: {image: busybox, command: sleep 1000, stop_grace_period: 0s, environment: {BASE: base}}}\n",
    );
    project.write(
        "more/compose.yaml",
        "services: {included: {image: busybox, command: cat /file, volumes: ['./file:/file:ro']}}\n",
    );
    project.write("more/file", "relative to the included file\n");
    let up = |words: &[&str]| {
        let mut command = project.command(words);
        command
            .env("SECRET_WORD", "whispered")
            .env("FROM_SHELL", "shell");
        let output = command.output().expect("Compose starts");
        dhow_testkit::Ran::new(words.join(" "), &output).ok()
    };
    up(&["up", "--detach"]);
    let said = project.within(
        "reader",
        "echo $FROM_SHELL $DEFAULTED $FROM_DOTENV $FROM_FILE $BASE; cat /run/secrets/from_file \
         /run/secrets/renamed; echo; cat /plain /etc/inline.conf /from_env_too; echo; \
         stat -c '%u %a' /run/secrets/renamed /etc/inline.conf",
    );
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "shell fallback dotenv a file base",
            "hidden",
            "whispered",
            "plain",
            "dotenv is dotenv",
            "whispered",
            "65534 400",
            "0 444"
        ]
    );
    assert_eq!(project.inspect("reader", "{{.Config.Labels.of}}"), "reader");
    let included = project.ok("logs --no-log-prefix included");
    assert_eq!(included, "relative to the included file");
    // Nothing changed, so nothing is made anew; a changed secret is a change.
    let id = project.id("reader");
    up(&["up", "--detach"]);
    assert_eq!(project.id("reader"), id);
    up(&["down"]);
}

#[test]
fn networks_are_as_they_are_told() {
    at_ours(networks);
}

fn networks(daemon: &dyn Dockerd) {
    const STACK: &str = r"
x-service: &service {image: busybox, command: sleep 1000, stop_grace_period: 0s}
services:
  web:
    <<: *service
    command: sh -c 'echo web > /index.html; exec httpd -f -p 80 -h /'
    networks:
      fixed: {ipv4_address: 10.213.9.77, ipv6_address: 'fd00:9::77', aliases: [www, site], priority: 100}
      inner: {}
    extra_hosts: ['far:10.1.2.3', 'gate=host-gateway']
    dns: [10.9.9.9]
    dns_search: [example]
    hostname: webby
  inside:
    <<: *service
    networks: [inner]
  alone:
    <<: *service
    network_mode: none
  beside:
    <<: *service
    network_mode: 'service:web'
  guest:
    <<: *service
    networks: [outer]
networks:
  fixed:
    enable_ipv6: true
    driver_opts: {com.docker.network.driver.mtu: '1300'}
    labels: {kind: fixed}
    ipam:
      config:
        - {subnet: 10.213.9.0/24, gateway: 10.213.9.254, ip_range: 10.213.9.128/25, aux_addresses: {other: 10.213.9.130}}
        - {subnet: 'fd00:9::/64'}
  inner: {internal: true, name: named-inner}
  outer: {external: true, name: made-before}
";
    let project = Project::new(daemon, "nets", STACK);
    let error = project.run(&["up", "--detach"]).fails(1);
    assert!(
        error.contains("network made-before declared as external, but could not be found"),
        "{error}"
    );
    daemon.docker(&["network", "create", "made-before"]).ok();
    project.ok("up --detach");
    let addresses = project.within("web", "ip -o addr");
    assert!(addresses.contains("10.213.9.77/24"), "{addresses}");
    assert!(addresses.contains("fd00:9::77/64"), "{addresses}");
    let links = project.within("web", "ip -o link");
    assert!(links.contains("mtu 1300"), "{links}");
    let hosts = project.within("web", "cat /etc/hosts /etc/resolv.conf; hostname");
    for part in [
        "10.1.2.3\tfar",
        "\tgate",
        "nameserver 127.0.0.11",
        "search example",
        "webby",
    ] {
        let found = hosts.contains(part) || hosts.contains(&part.replace('\t', " "));
        assert!(found, "{part:?} is not in {hosts}");
    }
    // On the inner network its name and service answer, the aliases do not.
    for name in ["web", "nets-web-1"] {
        let page = project.within("inside", &format!("wget -qO- http://{name}/"));
        assert_eq!(page, "web");
    }
    let words = ["exec", "-T", "inside", "nslookup", "www"];
    assert_ne!(project.run(&words).code, 0);
    let inner = daemon.inspect("named-inner", "{{.Internal}}");
    assert_eq!(inner, "true");
    assert_eq!(project.within("alone", "ls /sys/class/net"), "lo");
    assert_eq!(
        project.within("beside", "wget -qO- http://127.0.0.1/"),
        "web"
    );
    assert_eq!(daemon.inspect("nets_fixed", "{{.Labels.kind}}"), "fixed");

    // A second project beside it, with the same services, is another one.
    let second = Project::new(
        daemon,
        "second",
        &STACK
            .replace("213.9", "213.8")
            .replace("fd00:9", "fd00:8")
            .replace("named-inner", "other-inner"),
    );
    second.ok("up --detach");
    assert_eq!(
        second.within("web", "ip -o addr | grep -c 10.213.8.77"),
        "1"
    );
    let projects = project.ok("ls --format json");
    assert!(
        projects.contains(r#""Name":"nets","Status":"running(5)""#),
        "{projects}"
    );
    assert!(
        projects.contains(r#""Name":"second","Status":"running(5)""#),
        "{projects}"
    );
    second.ok("down");
    assert_eq!(project.within("inside", "wget -qO- http://web/"), "web");

    // A network that changed is made anew with who is on it.
    let before = daemon.inspect("nets_fixed", "{{.Id}}");
    project.write("compose.yaml", &STACK.replace("'1300'", "'1290'"));
    project.ok("up --detach --yes");
    assert_ne!(daemon.inspect("nets_fixed", "{{.Id}}"), before);
    assert!(project.within("web", "ip -o link").contains("mtu 1290"));
    project.ok("down");
    // The one from before stays.
    daemon.docker(&["network", "rm", "made-before"]).ok();
}

#[test]
fn limits_and_the_like_hold() {
    at_ours(limits);
}

fn limits(daemon: &dyn Dockerd) {
    const STACK: &str = r"
services:
  all:
    image: busybox
    command: sleep 1000
    init: true
    read_only: true
    tmpfs: ['/scratch:size=1m,mode=1777', /plain]
    shm_size: 16m
    ulimits: {nofile: {soft: 100, hard: 200}, nproc: 300}
    sysctls: {net.ipv4.ip_forward: 0}
    cap_drop: [ALL]
    cap_add: [CHOWN]
    security_opt: ['no-new-privileges:true']
    user: '33:33'
    group_add: ['44']
    working_dir: /scratch
    restart: on-failure:3
    stop_signal: SIGUSR1
    stop_grace_period: 1m30s
    oom_score_adj: 100
    pid: host
    ipc: private
    devices: ['/dev/null:/dev/nought:r']
    logging: {driver: json-file, options: {max-size: 1m, max-file: '2', tag: '{{.Name}}'}}
    labels: {a: b}
    annotations: {note: here}
    deploy: {resources: {limits: {cpus: '0.5', memory: 48M, pids: 60}, reservations: {memory: 24M}}}
    healthcheck: {disable: true}
    ports:
      - '127.0.0.1:0:80/udp'
      - {target: 90, host_ip: 127.0.0.1, published: '18090-18094'}
    expose: ['7000']
    volumes:
      - {type: volume, source: kept, target: /kept, volume: {nocopy: true}}
      - {type: bind, source: ./made, target: /made, read_only: true, bind: {create_host_path: true}}
      - {type: tmpfs, target: /small, tmpfs: {size: 65536, mode: 0700}}
      - /anonymous
      - other:/other
volumes:
  kept: {labels: {keep: me}, driver_opts: {type: tmpfs, device: tmpfs, o: size=2m}}
  other: {external: true, name: made-before}
";
    daemon.docker(&["volume", "create", "made-before"]).ok();
    let project = Project::new(daemon, "limits", STACK);
    project.ok("up --detach");
    let of_host =
        |field: &str| project.inspect("all", &format!("{{{{json .HostConfig.{field}}}}}"));
    for (field, shown) in [
        ("Memory", "50331648"),
        ("MemoryReservation", "25165824"),
        ("NanoCpus", "500000000"),
        ("PidsLimit", "60"),
        ("ShmSize", "16777216"),
        ("OomScoreAdj", "100"),
        ("PidMode", r#""host""#),
        ("IpcMode", r#""private""#),
        ("GroupAdd", r#"["44"]"#),
        (
            "RestartPolicy",
            r#"{"Name":"on-failure","MaximumRetryCount":3}"#,
        ),
        ("Annotations", r#"{"note":"here"}"#),
        (
            "LogConfig.Config",
            r#"{"max-file":"2","max-size":"1m","tag":"{{.Name}}"}"#,
        ),
    ] {
        // The reference has none yet.
        if field == "Annotations" && daemon.is_reference() {
            continue;
        }
        let found: String = of_host(field);
        let alike = found == shown || {
            let sorted = |text: &str| {
                let mut parts: Vec<String> = text
                    .trim_matches(['{', '}'])
                    .split(',')
                    .map(str::to_owned)
                    .collect();
                parts.sort();
                parts
            };
            sorted(&found) == sorted(shown)
        };
        assert!(alike, "{field}: {found}, not {shown}");
    }
    let within = |script: &str| project.within("all", script);
    let limits = within("ulimit -n; ulimit -Hn");
    // The reference's runtime raises that of an exec now and then.
    let is_raised = daemon.is_reference() && limits == "200\n200";
    assert!(limits == "100\n200" || is_raised, "{limits}");
    assert_eq!(within("pwd; id -u; id -G"), "/scratch\n33\n33 44");
    assert_eq!(within("cat /proc/sys/net/ipv4/ip_forward"), "0");
    assert!(
        within("touch /kept/x 2>&1; touch /file 2>&1 || true").contains("Read-only file system")
    );
    let mounts = within("cat /proc/mounts");
    for part in [
        "/scratch tmpfs",
        "/plain tmpfs",
        "/small tmpfs",
        "/kept tmpfs",
        "/anonymous ",
    ] {
        assert!(mounts.contains(part), "{part} is not in {mounts}");
    }
    assert!(
        mounts
            .lines()
            .any(|line| line.contains(" /kept ") && line.contains("size=2048k")),
        "{mounts}"
    );
    assert!(within("grep NoNewPrivs /proc/self/status").ends_with('1'));
    assert_eq!(
        within("grep CapBnd /proc/self/status")
            .split_whitespace()
            .nth(1),
        Some("0000000000000001")
    );
    assert!(project.folder().join("made").is_dir(), "it was made");
    assert_eq!(
        project.inspect("all", "{{.Config.StopSignal}} {{.Config.StopTimeout}}"),
        "SIGUSR1 90"
    );
    let published = project.ok("port all 90");
    assert!(published.starts_with("127.0.0.1:1809"), "{published}");
    assert!(
        project
            .ok("port --protocol udp all 80")
            .starts_with("127.0.0.1:")
    );
    assert_eq!(daemon.inspect("limits_kept", "{{.Labels.keep}}"), "me");
    project.ok("kill all");
    project.ok("down --volumes");
    // The one from before stays.
    daemon.docker(&["volume", "rm", "made-before"]).ok();
}

#[test]
fn everyday_commands_do_what_they_say() {
    at_ours(everyday_commands);
}

fn everyday_commands(daemon: &dyn Dockerd) {
    const STACK: &str = r"
services:
  web:
    image: busybox
    command: sh -c 'echo started; echo complained >&2; trap exit TERM; while :; do sleep 0.1; done'
    environment: {WORD: one}
    stop_grace_period: 0s
  built:
    build: {context: ., args: {A: b}, labels: {of: built}, target: last}
    command: sleep 1000
    stop_grace_period: 0s
    ports: ['127.0.0.1:18200-18209:80']
";
    let project = Project::new(daemon, "daily", STACK);
    project.write(
        "Dockerfile",
        "FROM busybox AS last\nARG A\nRUN echo $A > /a\n",
    );
    project.ok("build --quiet");
    project.ok("up --detach");
    assert!(project.ok("images --format json").contains("daily-built"));

    // Listings.
    let listed = project.ok("ps --format json");
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(
        listed.contains(r#""Publishers":[{"URL":"127.0.0.1","TargetPort":80,"PublishedPort":182"#),
        "{listed}"
    );
    assert!(project.ok("ps").contains("daily-web-1"));
    assert_eq!(
        project.ok("ps --services --status running").lines().count(),
        2
    );
    assert!(project.ok("top web").contains("sleep"));
    assert!(project.ok("stats --no-stream").contains("daily-web-1"));
    assert!(project.ok("volumes").contains("VOLUME NAME"));

    // Output.
    // In which order two streams come is nobody's promise.
    for word in ["started", "complained"] {
        let logs = project.follow("logs --follow --timestamps web", "", word, || ());
        let line = logs.last().expect("it came");
        assert!(line.starts_with("web-1") && line.ends_with(word), "{line}");
    }
    let last = project.ok("logs --tail 1 --no-log-prefix --no-color web");
    assert!(["started", "complained"].contains(&last.as_str()), "{last}");
    let events = project.follow("events --json", "", r#""action":"unpause""#, || {
        project.ok("pause web");
        project.ok("unpause web");
    });
    assert!(events.iter().any(|line| line.contains(r#""action":"pause""#) && line.contains(r#""service":"web""#)), "{events:?}");

    // Programs.
    let ran = project.run(&[
        "exec",
        "-T",
        "-e",
        "A=b",
        "-w",
        "/tmp",
        "-u",
        "33",
        "web",
        "sh",
        "-c",
        "echo $A $PWD $(id -u); exit 7",
    ]);
    assert_eq!((ran.code, ran.stdout.trim()), (7, "b /tmp 33"));
    let ran = project.run(&[
        "run",
        "--rm",
        "-T",
        "-e",
        "WORD=two",
        "--no-deps",
        "web",
        "sh",
        "-c",
        "echo $WORD; echo bad >&2; exit 9",
    ]);
    assert_eq!((ran.code, ran.stdout.trim()), (9, "two"));
    assert!(ran.stderr.contains("bad"), "{}", ran.stderr);
    let piped = project
        .command(&["run", "--rm", "-T", "--entrypoint", "cat", "web"])
        .stdin(std::fs::File::open(project.folder().join("compose.yaml")).expect("it is there"))
        .output()
        .expect("Compose starts");
    assert_eq!(String::from_utf8_lossy(&piped.stdout), STACK);
    project.ok("run --detach --name apart web sleep 1000");
    assert_eq!(
        daemon.inspect(
            "apart",
            "{{index .Config.Labels \"com.docker.compose.oneoff\"}}"
        ),
        "True"
    );
    daemon.docker(&["rm", "-f", "apart"]).ok();

    // Files.
    project.ok("cp compose.yaml web:/copied.yaml");
    assert_eq!(
        project.within("web", "wc -c < /copied.yaml"),
        STACK.len().to_string()
    );
    project.ok("cp web:/copied.yaml back.yaml");
    assert_eq!(
        std::fs::read_to_string(project.folder().join("back.yaml")).expect("copied"),
        STACK
    );

    // One service changes: that one is made anew.
    let (web, built) = (project.id("web"), project.id("built"));
    project.write("compose.yaml", &STACK.replace("WORD: one", "WORD: three"));
    let said = project.run(&["up", "--detach"]).stderr;
    assert!(
        said.contains("daily-web-1 Recreated") || said.contains("Container daily-web-1  Recreated"),
        "{said}"
    );
    assert_ne!(project.id("web"), web);
    assert_eq!(project.id("built"), built);
    assert_eq!(project.within("web", "echo $WORD"), "three");
    project.ok("up --detach --force-recreate --no-deps built");
    assert_ne!(project.id("built"), built);

    // More and fewer of one.
    project.ok("up --detach --scale built=3");
    assert_eq!(project.id("built").lines().count(), 3);
    let third = project.ok("port --index 3 built 80");
    assert!(third.starts_with("127.0.0.1:182"), "{third}");
    project.ok("scale built=1");
    assert_eq!(project.id("built").lines().count(), 1);

    // Ends.
    let said = waited_for(&project);
    assert!(said.ends_with("exited with status code 0"), "{said}");
    assert_eq!(project.inspect("web", "{{.State.Status}}"), "exited");
    project.ok("start web");
    project.ok("restart web");
    project.ok("stop");
    assert_eq!(project.ok("ps --quiet"), "");
    assert_eq!(
        project
            .ok("ps --all --status exited --quiet")
            .lines()
            .count(),
        2
    );
    project.ok("rm --force web");
    assert_eq!(project.id("web"), "");
    project.ok("create");
    assert_eq!(project.inspect("web", "{{.State.Status}}"), "created");

    // A service that is gone leaves an orphan, which `down` is told to take.
    let (kept, _) = STACK.split_once("  built:").expect("it has one");
    project.write("compose.yaml", kept);
    let said = project.run(&["up", "--detach"]).stderr;
    assert!(said.contains("orphan"), "{said}");
    project.ok("down --volumes --remove-orphans");
    // Images that were built go with their service.
    project.write("compose.yaml", STACK);
    project.ok("up --detach built");
    project.ok("down --volumes --rmi local");
    assert_eq!(daemon.docker(&["images", "-q", "daily-built"]).ok(), "");
}

/// What `wait` says of a service that ends while it is waited for. One that has
/// ended before is none to Compose, so that it may take several attempts.
fn waited_for(project: &Project<'_>) -> String {
    for _ in 0..20 {
        project.ok("start web");
        let waiting = project
            .command(&["wait", "web"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("Compose starts");
        project.ok("kill --signal TERM web");
        let output = waiting.wait_with_output().expect("it ends");
        if output.status.success() {
            return String::from_utf8_lossy(&output.stdout).trim().to_owned();
        }
    }
    panic!("wait never came before the end");
}

#[test]
fn changed_sources_are_watched() {
    at_ours(changed_sources);
}

fn changed_sources(daemon: &dyn Dockerd) {
    const STACK: &str = r"
services:
  app:
    build: .
    command: sleep 1000
    init: true
    stop_grace_period: 0s
    develop: {watch: [{action: sync, path: ./source, target: /source}]}
";
    let project = Project::new(daemon, "watch", STACK);
    project.write("Dockerfile", "FROM busybox\n");
    project.write("source/page", "first\n");
    project.ok("up --detach --build");
    let page = project.folder().join("source/page");
    project.follow("watch --no-up", "Watch enabled", "Syncing", || {
        std::fs::write(&page, "second\n").expect("written");
        // It is there as soon as the archive was unpacked.
        let arrives = "until grep -q second /source/page 2>/dev/null; do sleep 0.1; done";
        project.within("app", arrives);
    });
    project.ok("down --rmi local");
}

#[test]
fn mistakes_are_told() {
    at_ours(mistakes);
}

fn mistakes(daemon: &dyn Dockerd) {
    let project = Project::new(daemon, "wrong", "services: {}\n");
    let complains = |text: &str, words: &[&str], part: &str| {
        project.write("compose.yaml", text);
        let ran = project.run(words);
        assert_ne!(ran.code, 0, "{text}");
        assert!(ran.stderr.contains(part), "{text}: {}", ran.stderr);
    };
    let up = ["up", "--detach"];
    complains(
        "services: {a: {imag: x}}",
        &["config", "-q"],
        "additional properties 'imag' not allowed",
    );
    complains(
        "services: {a: {image: busybox, depends_on: [b]}}",
        &["config", "-q"],
        "undefined service",
    );
    complains(
        "services: {a: {image: 127.0.0.1:1/no/image, pull_policy: always}}",
        &up,
        "refused",
    );
    complains(
        "services: {a: {image: never-built, pull_policy: never}}",
        &up,
        "No such image: never-built",
    );
    complains(
        "services: {a: {image: busybox, command: /no/program}}",
        &up,
        "no such file or directory",
    );
    complains(
        "services: {a: {image: busybox, volumes: ['data:/v']}}\nvolumes: {data: {external: true}}",
        &up,
        "external volume",
    );
    complains(
        "services: {a: {image: busybox, mem_limit: 1m}}",
        &up,
        "Minimum memory limit",
    );
    complains(
        "services: {a: {image: busybox, networks: {n: {ipv4_address: 10.1.1.1}}}}\nnetworks: {n: {ipam: {config: [{subnet: 10.213.6.0/24}]}}}",
        &up,
        "10.1.1.1",
    );
    complains(
        "services: {a: {image: busybox}}",
        &["up", "--detach", "b"],
        "no such service: b",
    );
    complains(
        "services: {a: {image: busybox}}",
        &["exec", "-T", "a", "true"],
        "is not running",
    );
    // A port that is taken.
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "taken",
            "-p",
            "127.0.0.1:18300:80",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    complains(
        "services: {a: {image: busybox, ports: ['127.0.0.1:18300:80']}}",
        &up,
        "port is already allocated",
    );
    daemon.docker(&["rm", "-f", "taken"]).ok();
    project.ok("down --volumes --remove-orphans");
    // Networks that the file names no more are not Compose's to remove.
    daemon.docker(&["network", "prune", "-f"]).ok();
}
