//! Good files, bad files, and the files that the documentation shows.

use std::path::Path;

use agentguard_model::ledger::OnLoss;
use agentguard_model::record::{AgentShare, RecordLimits};

use super::{Config, ConfigError, Declared, Faults, Host, Worker, schema};

const FILE: &str = "/etc/agentguard/config.yaml";

fn parse(text: &str) -> Result<Declared, Faults> {
    Declared::parse(Path::new(FILE), text)
}

/// A host with a few users and one resolver.
fn host() -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().unwrap();
    let host = Host {
        passwd: dir.path().join("passwd"),
        resolv_conf: dir.path().join("resolv.conf"),
    };
    std::fs::write(
        &host.passwd,
        "root:x:0:0:root:/root:/bin/sh\n\
         agentguard:x:998:997::/:/usr/sbin/nologin\n\
         wheelie:x:1001:0::/:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(&host.resolv_conf, "nameserver 192.0.2.53\n").unwrap();
    (dir, host)
}

fn resolve(text: &str) -> Result<Config, String> {
    let (_dir, host) = host();
    parse(text)
        .map_err(|faults| faults.to_string())?
        .resolve(&host)
        .map_err(|error| error.to_string())
}

#[test]
fn everything_has_a_default() {
    for text in ["{}", "", "# nothing\n\n  # here\n"] {
        let config = resolve(text).unwrap();
        assert_eq!(config.file, Path::new(FILE));
        assert_eq!(config.paths.state_dir, Path::new("/var/lib/agentguard"));
        assert_eq!(config.paths.runtime_dir, Path::new("/run/agentguard"));
        assert_eq!(
            config.paths.cgroup_root,
            Path::new("/sys/fs/cgroup/agentguard")
        );
        assert_eq!(config.paths.bpffs, Path::new("/sys/fs/bpf/agentguard"));
        assert_eq!(
            config.paths.policy,
            Path::new("/etc/agentguard/policy.yaml")
        );
        assert_eq!(config.paths.prices, None);
        assert_eq!((config.proxy_port, config.resolver_port), (15001, 15053));
        assert_eq!(config.run, super::Run::default());
        assert_eq!(config.resolvers, ["192.0.2.53:53".parse().unwrap()]);
        assert_eq!(
            config.worker,
            Worker {
                name: "agentguard".into(),
                uid: 998,
                gid: 997
            }
        );
    }
}

#[test]
fn everything_can_be_said() {
    let config = resolve(
        "state_dir: /srv/ag/state\nruntime_dir: /srv/ag/run\ncgroup_root: /sys/fs/cgroup/unified/ag\n\
         bpffs: /sys/fs/bpf/ag\npolicy: /srv/ag/p.yaml\nworker_user: 65534\n\
         resolvers: ['[2001:db8::53]:53', 192.0.2.1:5353]\nproxy_port: 1\nresolver_port: 2\n",
    )
    .unwrap();
    assert_eq!(
        config.paths.control_socket(),
        Path::new("/srv/ag/run/control.sock")
    );
    assert_eq!(
        config.paths.keeper_socket(),
        Path::new("/srv/ag/run/keeper.sock")
    );
    assert_eq!(
        config.paths.cgroup_root,
        Path::new("/sys/fs/cgroup/unified/ag")
    );
    assert_eq!(config.paths.policy, Path::new("/srv/ag/p.yaml"));
    assert_eq!(
        config.worker,
        Worker {
            name: "65534".into(),
            uid: 65534,
            gid: 65534
        }
    );
    assert_eq!(
        config.resolvers,
        [
            "[2001:db8::53]:53".parse().unwrap(),
            "192.0.2.1:5353".parse().unwrap()
        ]
    );
    assert_eq!((config.proxy_port, config.resolver_port), (1, 2));
}

/// Each with the exact words, line, column and hint.
#[test]
fn bad_files() {
    let long = format!("runtime_dir: /{}\n", "r".repeat(90));
    for (text, expected) in [
        (
            "state_dri: /x\n",
            "1:1: error: unknown key `state_dri`\n  hint: did you mean `state_dir`?",
        ),
        (
            "state_dir: /x\nstate_dir: /y\n",
            "2:1: error: duplicate key `state_dir`\n  hint: it stands in line 1 already",
        ),
        (
            "proxy_port: 70000\n",
            "1:13: error: expected a whole number from 0 to 65535, found `70000`\n  hint: choose one that is in this range",
        ),
        (
            "proxy_port: http\n",
            "1:13: error: expected a whole number from 0 to 65535, found the text `http`\n  hint: write its digits, without quotes and point",
        ),
        (
            "proxy_port: 0\n",
            "1:13: error: `proxy_port` is 0, which is no port\n  hint: choose one from 1 to 65535, as in the default 15001",
        ),
        (
            "proxy_port: 15053\n",
            "1:13: error: `proxy_port` and `resolver_port` are both 15053, and both listen on TCP\n  hint: choose two different ports",
        ),
        (
            "proxy_port: 9\nresolver_port: 9\n",
            "2:16: error: `proxy_port` and `resolver_port` are both 9, and both listen on TCP\n  hint: choose two different ports",
        ),
        (
            "# where it lives\nstate_dir: var/lib\n",
            "2:12: error: `state_dir` is not an absolute path\n  hint: begin it with `/`, as in the default /var/lib/agentguard",
        ),
        (
            "state_dir: /var/../etc\n",
            "1:12: error: `state_dir` goes up with `..`\n  hint: write the path it comes out at",
        ),
        (
            "bpffs: /\n",
            "1:8: error: `bpffs` is the root directory\n  hint: give it a directory of its own, as in the default /sys/fs/bpf/agentguard",
        ),
        (
            "cgroup_root: /sys/fs/cgroup/\n",
            "1:14: error: `cgroup_root` is the mount itself, which belongs to all of the host\n  hint: name a directory below it, as in the default /sys/fs/cgroup/agentguard",
        ),
        (
            &long,
            "1:14: error: `runtime_dir` is 91 bytes long, and a socket's path has no room for more than 80\n  hint: choose a shorter path, as in the default /run/agentguard",
        ),
        (
            "prices: ''\n",
            "1:9: error: `prices` is not a path\n  hint: name the file, as prices.yaml, or leave the key out",
        ),
        (
            "policy: ''\n",
            "1:9: error: `policy` is not a path\n  hint: name the policy file, as in the default policy.yaml",
        ),
        (
            "resolvers: [192.0.2.53]\n",
            "1:13: error: `192.0.2.53` is not an address with a port\n  hint: add the port: 192.0.2.53:53",
        ),
        (
            "resolvers:\n  - dns.example:53\n",
            "2:5: error: `dns.example:53` is not an address with a port\n  hint: write an address and a port, as 192.0.2.53:53 or [2001:db8::53]:53",
        ),
        (
            "resolvers: ['127.0.0.1:15053']\n",
            "1:13: error: 127.0.0.1:15053 is the guard's own resolver, which would ask itself\n  hint: name the resolver that the host itself uses, or change `resolver_port`",
        ),
        (
            "resolvers: ['192.0.2.53:0']\n",
            "1:13: error: no resolver can be asked at 192.0.2.53:0\n  hint: write the address and the port it listens on, as 192.0.2.53:53",
        ),
        (
            "resolvers: []\n",
            "1:12: error: `resolvers` has 0 entries, and 1 to 8 make sense\n  hint: leave the key out to use the host's own resolvers",
        ),
        (
            "worker_user: nobody-here\n",
            "1:14: error: the worker's user `nobody-here` does not exist\n  hint: create a user for it: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin nobody-here",
        ),
        (
            "worker_user: root\n",
            "1:14: error: the worker's user `root` is root or in root's group\n  hint: the worker reads hostile bytes and must own nothing; create a user for it: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin agentguard",
        ),
        (
            "worker_user: 0\n",
            "1:14: error: the worker's user `0` is root or in root's group\n  hint: the worker reads hostile bytes and must own nothing; create a user for it: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin agentguard",
        ),
        (
            "worker_user: 4294967295\n",
            "1:14: error: `4294967295` is no user: its number stands for none\n  hint: create a user for it: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin agentguard",
        ),
        (
            "worker_user: wheelie\n",
            "1:14: error: the worker's user `wheelie` is root or in root's group\n  hint: the worker reads hostile bytes and must own nothing; create a user for it: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin agentguard",
        ),
        (
            "just text\n",
            "1:1: error: expected keys of the configuration, found the text `just text`\n  hint: write its keys below it, each in a line of its own: `key: value`",
        ),
    ] {
        let told = resolve(text).unwrap_err();
        assert_eq!(told, format!("{FILE}:{expected}"), "{text}");
    }
}

#[test]
fn what_is_wrong_with_telemetry_is_told_in_its_place() {
    for (text, expected) in [
        (
            "telemetry: {prometheus: {listen: here}}",
            ":1:34: error: nothing can listen at `here`",
        ),
        (
            "telemetry: {prometheus: {listen: 127.0.0.1:0}}",
            ":1:34: error: nothing can listen",
        ),
        (
            "telemetry: {prometheus: {listen: /run/../x}}",
            ":1:34: error: `listen` is not the path",
        ),
        (
            "telemetry: {prometheus: {listen: '[::1]:1', port: 1}}",
            ":1:45: error: unknown key `port`",
        ),
        (
            "telemetry: {prometeus: {}}",
            ":1:13: error: unknown key `prometeus`",
        ),
        (
            "telemetry: {otlp: {endpoint: 'c:4317'}}",
            ":1:30: error: `c:4317` is not the address",
        ),
        (
            "telemetry: {otlp: {endpoint: 'http://c', ca: x.pem}}",
            ":1:46: error: `ca` is for TLS",
        ),
        (
            "telemetry: {otlp: {endpoint: 'http://c', interval: 0}}",
            ":1:52: error: `interval` is 0 seconds",
        ),
        (
            "telemetry: {otlp: {endpoint: 'http://c', headers_file: /nowhere}}",
            ":1:56: error: cannot take headers from /nowhere",
        ),
    ] {
        let told = resolve(text).unwrap_err();
        assert!(
            told.starts_with(&format!("{FILE}{expected}")),
            "{text}: {told}"
        );
        assert!(told.contains("\n  hint: "), "{told}");
    }
    let config =
        resolve("telemetry: {prometheus: {listen: '[::1]:1'}, otlp: {endpoint: 'http://c'}}");
    let telemetry = config.unwrap().telemetry;
    assert_eq!(telemetry.prometheus.as_deref(), Some("[::1]:1"));
    let otlp = telemetry.otlp.unwrap();
    assert_eq!((otlp.endpoint.port, otlp.interval.as_secs()), (4318, 30));
    assert_eq!(
        resolve("{}").unwrap().telemetry,
        agentguard_model::Telemetry::default()
    );
}

#[test]
fn the_record_keeps_what_is_said_and_the_rest_as_before() {
    let record = |text| resolve(text).unwrap().record;
    let default = RecordLimits::default();
    assert_eq!(record("{}"), default);
    assert_eq!(record("record: {}"), default);
    assert_eq!(record("record: {agent_share: {}}"), default);
    let all = "record: {max_mib: 256, agent_share: {per_second: 1, at_once: 2, mib_per_day: 3}}";
    let agent_share = AgentShare {
        per_second: 1,
        at_once: 2,
        bytes_per_day: 3 << 20,
    };
    let max_bytes = 256 << 20;
    assert_eq!(
        record(all),
        RecordLimits {
            max_bytes,
            agent_share
        }
    );
    let some = record("record: {agent_share: {at_once: 1000000}}");
    assert_eq!(some.agent_share.at_once, 1_000_000);
    assert_eq!(some.agent_share.per_second, default.agent_share.per_second);
}

#[test]
fn what_is_wrong_with_the_record_is_told_in_its_place() {
    for (text, expected) in [
        (
            "record: {max_mib: 255}",
            ":1:19: error: `max_mib` is 255\n  hint: choose 256 to 16777216, or leave it out for 10240",
        ),
        (
            "record: {max_mib: 18446744073709551615}",
            ":1:19: error: `max_mib` is 18446744073709551615",
        ),
        (
            "record: {agent_share: {per_second: 0}}",
            ":1:36: error: `per_second` is 0",
        ),
        (
            "record: {agent_share: {at_once: 1000001}}",
            ":1:33: error: `at_once` is 1000001",
        ),
        (
            "record: {agent_share: {mib_per_day: 0}}",
            ":1:37: error: `mib_per_day` is 0",
        ),
        ("record: {agent_share: {burst: 1}}", ":1:24: error: "),
        ("record: 5", ":1:9: error: "),
    ] {
        let told = resolve(text).unwrap_err();
        assert!(
            told.starts_with(&format!("{FILE}{expected}")),
            "{text}: {told}"
        );
    }
}

#[test]
fn what_is_wrong_with_the_ledger_is_told_in_its_place() {
    for (text, expected) in [
        (
            "ledger: {redis: {address: 'redis://me:secret@r'}}",
            ":1:27: error: `address` is not that of a Redis",
        ),
        (
            "ledger: {redis: {prefix: a}}",
            ":1:17: error: missing key `address`",
        ),
        (
            "ledger: {redis: {address: r, prefix: 'a}b'}}",
            ":1:38: error: `prefix` is empty, too long",
        ),
        (
            "ledger: {redis: {address: r, username: me}}",
            ":1:40: error: `username` is nothing without a password",
        ),
        (
            "ledger: {redis: {address: r, password_file: /nowhere}}",
            ":1:45: error: cannot take the password from /nowhere",
        ),
        (
            "ledger: {redis: {address: r, ca: x.pem}}",
            ":1:34: error: `ca` is for TLS",
        ),
        (
            "ledger: {redis: {address: r, timeout_ms: 0}}",
            ":1:42: error: `timeout_ms` is 0",
        ),
        (
            "ledger: {redis: {address: r, on_loss: allow}}",
            ":1:39: error: ",
        ),
        (
            "ledger: {redis: {address: r, on_loss: lease, lease_percent: 51}}",
            ":1:61: error: `lease_percent` is 51",
        ),
        (
            "ledger: {redis: {address: r, lease_percent: 5}}",
            ":1:45: error: `lease_percent` is for `on_loss: lease`",
        ),
    ] {
        let told = resolve(text).unwrap_err();
        assert!(
            told.starts_with(&format!("{FILE}{expected}")),
            "{text}: {told}"
        );
        assert!(
            told.contains("\n  hint: ") && !told.contains("secret"),
            "{told}"
        );
    }
    assert_eq!(resolve("ledger: {}").unwrap().ledger, None);
    let plain = resolve("ledger: {redis: {address: r.example}}").unwrap();
    let plain = plain.ledger.unwrap();
    assert_eq!(
        (plain.address().as_str(), plain.prefix.as_str()),
        ("r.example:6379", "default")
    );
    assert_eq!(
        (plain.on_loss, plain.timeout.as_millis()),
        (OnLoss::Deny, 250)
    );
    let leased = resolve("ledger: {redis: {address: '[::1]:7', on_loss: lease}}").unwrap();
    assert_eq!(leased.ledger.unwrap().on_loss, OnLoss::Lease(5));
}

#[test]
fn all_faults_of_one_file_are_told_at_once_and_in_order() {
    let told = resolve("resolver_port: 0\nbpffs: x\nresolvers: [a, b]\n").unwrap_err();
    let places: Vec<&str> = told
        .lines()
        .filter_map(|line| line.strip_prefix(FILE)?.split(": error").next())
        .collect();
    assert_eq!(places, [":1:16", ":2:8", ":3:13", ":3:16"], "{told}");
}

#[test]
fn a_host_without_resolvers_is_told_how_to_name_one() {
    let (_dir, host) = host();
    std::fs::write(&host.resolv_conf, "search example\n").unwrap();
    let Err(ConfigError::Wrong(faults)) = parse("{}").unwrap().resolve(&host) else {
        panic!("it resolved");
    };
    let fault = &faults.0[0];
    assert_eq!((faults.0.len(), fault.line), (1, 0));
    assert!(fault.message.ends_with("resolv.conf names no resolver"));
    assert!(fault.hint.contains("resolvers: ["));
}

/// Every key is documented, and the documented examples are good configurations.
#[test]
fn the_documentation_is_true() {
    let page = include_str!("../../../docs/configuration.md");
    let sample = include_str!("../../../dist/config.yaml");
    let schema = serde_json::Value::from(schema());
    let keys: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 15);
    for key in keys {
        assert!(
            page.contains(&format!("| `{key}` |")),
            "{key} is not in docs/configuration.md"
        );
        assert!(
            sample.contains(&format!("{key}:")),
            "{key} is not in dist/config.yaml"
        );
        let text = schema["properties"][key]["description"].as_str();
        assert!(text.is_some_and(|text| text.contains("Default: ")), "{key}");
    }
    let mut examples: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(!examples.is_empty());
    let telemetry = include_str!("../../../docs/telemetry.md");
    let telemetry = telemetry.split("```yaml\n").nth(1).unwrap();
    examples.extend(telemetry.split("```").next());
    let readme = include_str!("../../../README.md");
    let newcomers = readme
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .find(|text| text.contains("worker_user"));
    examples.push(newcomers.unwrap());
    examples.push(sample);
    let (directory, ca) = ca_file();
    let credentials = credentials_file(&directory, "credentials", 0o600);
    for example in examples {
        let example = example.replace("corp-ca.pem", &ca);
        // A line `user:password` is one of a header field, too.
        let example = example.replace("otlp-headers", &credentials);
        let example = example.replace("redis-password", &credentials);
        resolve(&example.replace("proxy-credentials", &credentials)).unwrap();
    }
    drop(directory);
}

/// A file with credentials for a proxy.
fn credentials_file(directory: &tempfile::TempDir, name: &str, mode: u32) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = directory.path().join(name);
    std::fs::write(&path, "guard:open sesame\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

/// A file with an authority.
fn ca_file() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

#[test]
fn lists_of_revoked_certificates_are_read_and_checked() {
    let (directory, ca) = ca_file();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(2090, 1, 1),
        crl_number: 1u64.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&rcgen::Issuer::new(params, key)).unwrap();
    let list = file("list.pem", &list.pem().unwrap());
    let config = resolve(&format!(
        "upstreams:\n  - {{host: [a.example], ca: {ca}, crl: {list}}}\n"
    ));
    assert_eq!(config.unwrap().upstreams[0].revocations.len(), 1);
    let broken = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    for (path, expected) in [
        (ca, "it has no list"),
        (
            file("broken.pem", broken),
            "cannot read revoked certificates",
        ),
        ("missing.pem".to_owned(), "No such file"),
    ] {
        let told = resolve(&format!(
            "upstreams:\n  - {{host: [a.example], crl: {path}}}\n"
        ));
        let told = told.unwrap_err().to_string();
        assert!(told.contains("2:30: error:"), "{told}");
        assert!(told.contains(expected), "{told}");
        assert!(told.contains("at least one X509 CRL"), "{told}");
    }
}

#[test]
fn authorities_of_upstreams_are_read_and_checked() {
    let (directory, ca) = ca_file();
    let config = resolve(&format!(
        "upstreams:\n  - {{host: ['*.corp.example', Api.example], ca: {ca}}}\n"
    ));
    let [upstream] = &config.unwrap().upstreams[..] else {
        panic!("not one");
    };
    let hosts: Vec<_> = upstream
        .hosts
        .iter()
        .map(|(name, below)| (name.as_str(), *below))
        .collect();
    assert_eq!(hosts, [("corp.example", true), ("api.example", false)]);
    assert_eq!(upstream.certificates.len(), 1);

    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let empty = file("empty.pem", "# nothing\n");
    let broken = file(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    for (text, expected) in [
        (
            "{host: [], ca: x.pem}".to_owned(),
            "2:5: error: `host` has 0 names",
        ),
        (
            format!("{{host: [a b], ca: {ca}}}"),
            "2:13: error: `a b` is not a host name: a label",
        ),
        (
            "{host: [a.example]}".to_owned(),
            "2:5: error: the entry says nothing of its hosts",
        ),
        (
            "{host: [a.example], address: a.example}".to_owned(),
            "2:34: error: `a.example` is no address to connect to",
        ),
        (
            "{host: [a.example], address: '0.0.0.0'}".to_owned(),
            "2:34: error: `0.0.0.0` is no address to connect to",
        ),
        (
            "{host: [a.example], address: '192.0.2.1:0'}".to_owned(),
            "2:34: error: `192.0.2.1:0` is no address to connect to",
        ),
        (
            "{host: [a.example], server_name: '*.b.example'}".to_owned(),
            "2:38: error: `*.b.example` is not a host name",
        ),
        (
            format!("{{host: [a.example], client_key: {ca}}}"),
            "2:37: error: `client_certificate` and `client_key` go together",
        ),
        (
            format!("{{host: [a.example], client_certificate: {ca}, client_key: {ca}}}"),
            "2:45: error: cannot use the client's certificate: ",
        ),
        (
            "{host: [a.example], ca: /nonexistent/ca.pem}".to_owned(),
            "2:29: error: cannot read authorities from /nonexistent/ca.pem: No such file",
        ),
        (
            format!("{{host: [a.example], ca: {empty}}}"),
            "it has no certificate",
        ),
        (
            format!("{{host: [a.example], ca: {broken}}}"),
            "2:29: error: cannot read",
        ),
    ] {
        let told = resolve(&format!("upstreams:\n  - {text}\n")).unwrap_err();
        assert!(told.contains(expected), "{told}\n{expected}");
    }
}

#[test]
fn upstreams_are_reached_and_verified_as_an_entry_says() {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["guard.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = file("client.pem", certificate.pem());
    let other = file(
        "other.pem",
        rcgen::KeyPair::generate().unwrap().serialize_pem(),
    );
    let key = file("client.key", key.serialize_pem());
    let config = resolve(&format!(
        "upstreams:\n  - {{host: [a.example], address: '[2001:db8::1]:8443', server_name: B.example}}\n  \
           - {{host: [c.example], address: 192.0.2.1, client_certificate: {certificate}, client_key: {key}}}\n"
    ));
    let config = config.unwrap();
    let [first, second] = &config.upstreams[..] else {
        panic!("not two");
    };
    assert_eq!(
        first.address,
        Some(("2001:db8::1".parse().unwrap(), Some(8443)))
    );
    assert_eq!(first.server_name.as_ref().unwrap().as_str(), "b.example");
    assert_eq!((first.certificates.len(), &first.identity), (0, &None));
    assert_eq!(second.address, Some(("192.0.2.1".parse().unwrap(), None)));
    let identity = second.identity.as_ref().unwrap();
    assert_eq!(identity.chain.len(), 1);
    assert!(!format!("{second:?}").contains("key"), "{second:?}");

    let told = resolve(&format!(
        "upstreams:\n  - {{host: [c.example], client_certificate: {certificate}, client_key: {other}}}\n"
    ));
    let told = told.unwrap_err();
    assert!(
        told.contains("cannot use the client's certificate"),
        "{told}"
    );
}

#[test]
fn proxies_of_upstreams_are_read_and_checked() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = credentials_file(&directory, "credentials", 0o600);
    let open = credentials_file(&directory, "open", 0o644);
    let config = resolve(&format!(
        "upstreams:\n  - {{host: [a.example], address: 192.0.2.1, proxy: 'http://[2001:db8::1]:8080'}}\n  \
           - {{host: ['*'], proxy: 'http://Proxy.example:3128/', proxy_credentials: {credentials}}}\n"
    ));
    let config = config.unwrap();
    let [first, second] = &config.upstreams[..] else {
        panic!("not two");
    };
    let far = "far.example".parse().unwrap();
    assert!(!first.is_for(&far) && second.is_for(&far));
    let proxies = [first, second].map(|entry| entry.proxy.as_ref().unwrap());
    assert_eq!(proxies[0].to_string(), "http://[2001:db8::1]:8080");
    assert_eq!(proxies[0].credentials, None);
    assert_eq!(proxies[1].to_string(), "http://proxy.example:3128");
    assert!(proxies[1].credentials.is_some());
    assert!(!format!("{config:?}").contains("Basic"), "{config:?}");

    for (text, expected) in [
        (
            "{host: [a.example], proxy: 'proxy.example:3128'}".to_owned(),
            "2:32: error: `proxy.example:3128` is not the URL of a proxy",
        ),
        (
            "{host: [a.example], proxy: 'http://proxy.example'}".to_owned(),
            "2:32: error: `http://proxy.example` is not the URL of a proxy",
        ),
        (
            "{host: [a.example], proxy: 'http://proxy.example:3128/path'}".to_owned(),
            "2:32: error: `http://proxy.example:3128/path` is not the URL of a proxy",
        ),
        (
            "{host: [a.example], proxy: 'http://0.0.0.0:3128'}".to_owned(),
            "2:32: error: `http://0.0.0.0:3128` is no proxy to connect to",
        ),
        (
            "{host: [a.example], proxy: 'https://proxy.example:3128'}".to_owned(),
            "2:32: error: a proxy behind TLS (`https://`) is not spoken to",
        ),
        (
            "{host: [a.example], proxy: 'http://guard:hidden@proxy.example:3128'}".to_owned(),
            "2:32: error: credentials have no place in the proxy's URL",
        ),
        (
            format!("{{host: [a.example], proxy_credentials: {credentials}}}"),
            "2:44: error: `proxy_credentials` are for a `proxy`",
        ),
        (
            format!("{{host: [a.example], proxy: 'http://p:1', proxy_credentials: {open}}}"),
            "others can read or change it: its mode is 0644",
        ),
        (
            "{host: [a.example], proxy: 'http://p:1', proxy_credentials: /nonexistent/c}"
                .to_owned(),
            "2:65: error: cannot take credentials from /nonexistent/c: No such file",
        ),
        (
            "{host: ['*', a.example], address: 192.0.2.1}".to_owned(),
            "2:13: error: `*` is every name, and `address` is for some",
        ),
    ] {
        let told = resolve(&format!("upstreams:\n  - {text}\n")).unwrap_err();
        assert!(told.contains(expected), "{told}\n{expected}");
        assert!(
            !told.contains("hidden") && !told.contains("sesame"),
            "{told}"
        );
    }
}

#[test]
fn the_schema_refuses_unknown_keys_and_gives_defaults() {
    let schema = serde_json::Value::from(schema());
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["proxy_port"]["default"], 15001);
    assert_eq!(schema["properties"]["worker_user"]["default"], "agentguard");
    assert_eq!(schema["properties"]["policy"]["default"], "policy.yaml");
}

#[test]
fn the_sandbox_of_run_takes_paths_that_begin_at_the_root() {
    let config = resolve("run: {strict: true, masked_paths: [/run/x, '/run/y-*']}").unwrap();
    assert!(config.run.strict);
    let paths = ["/run/x", "/run/y-*"].map(std::path::PathBuf::from);
    assert_eq!(config.run.masked_paths, paths);
    for (text, told) in [
        ("run: {strict: yes}", ":1:15: error: expected true or false"),
        ("run: {stict: true}", ":1:7: error: unknown key `stict`"),
        (
            "run: {masked_paths: [run/x]}",
            ":1:22: error: `masked_paths` is not an absolute path",
        ),
        (
            "run: {masked_paths: [/run/../x]}",
            ":1:22: error: `masked_paths` goes up with `..`",
        ),
    ] {
        let found = resolve(text).unwrap_err();
        assert!(found.contains(told), "{found}");
    }
    let many = vec!["/x"; 65].join(", ");
    let found = resolve(&format!("run: {{masked_paths: [{many}]}}")).unwrap_err();
    assert!(found.contains("more than 64 entries"), "{found}");
}
