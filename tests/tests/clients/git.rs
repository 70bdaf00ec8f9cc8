//! git: dumb HTTP in the clear and in TLS, and its own protocol over TCP.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agentguard_tests::{Tag, World, wait_until};
use anyhow::{Result, ensure};

use crate::inspected::{inspected, open};
use crate::room::{GIT, PASTE, Program, Room, row, ungoverned, world, world_with_files};

const HOST: &str = "git.example.com";

/// A repository with some commits, as a plain file server and `git daemon` have it. Removed on drop.
struct Repository(PathBuf);

impl Repository {
    fn create(git: &Program) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("{}.git", Tag::next().directory()));
        fs::create_dir(&path)?;
        let repository = Self(path);
        repository.git(git, &["init", "-q", "-b", "main"])?;
        for number in 0..4 {
            let file = repository.0.join(format!("file-{number}"));
            fs::write(file, format!("content {number}\n").repeat(1000))?;
            repository.git(git, &["add", "."])?;
            repository.git(git, &["commit", "-q", "-m", "a commit"])?;
        }
        repository.git(git, &["update-server-info"])?;
        Ok(repository)
    }

    fn git(&self, git: &Program, words: &[&str]) -> Result<String> {
        output(git, &self.0, words)
    }

    /// Whether a clone has what this has.
    fn is(&self, git: &Program, clone: &Path) -> Result<bool> {
        let head = ["rev-parse", "HEAD"];
        Ok(output(git, &self.0, &head)? == output(git, clone, &head)?)
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove a repository: {error}");
        }
    }
}

/// What git prints, in a directory. Its commits are the same each time.
pub(crate) fn output(git: &Program, directory: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(&git.path)
        .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
        .args(words)
        .env("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z")
        .env("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z")
        .current_dir(directory)
        .output()?;
    ensure!(output.status.success(), "{words:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The words of `git clone URL`, and where to.
fn clone(world: &World, git: &Program, url: &str, into: &str) -> (Vec<OsString>, PathBuf) {
    let into = world.directory().join(into);
    let words = ["clone", "-q", url];
    let words = git.words(&words).into_iter().chain([into.as_os_str()]);
    (words.map(OsStr::to_owned).collect(), into)
}

#[test]
fn git_clones_over_tls_and_in_the_clear_and_nowhere_else() {
    let Some(git) = Program::find("git").unwrap() else {
        return;
    };
    let repository = Repository::create(&git).unwrap();
    let world = world_with_files("git-http", &repository.0).start().unwrap();
    let room = Room::open(&world).unwrap();
    let log = world.origin(HOST).unwrap().log();
    let helpers = repository.git(&git, &["--exec-path"]).unwrap();

    for (scheme, port) in [("https", 443), ("http", 80)] {
        let url = format!("{scheme}://{HOST}/files/.git");
        let (words, into) = clone(&world, &git, &url, &format!("{scheme}-free"));
        ungoverned(&world, words).unwrap().success().unwrap();
        assert!(repository.is(&git, &into).unwrap());

        let (requests, connections) = (
            log.requests().unwrap().len(),
            log.connections().unwrap().len(),
        );
        let (words, into) = clone(&world, &git, &url, &format!("{scheme}-governed"));
        let run = room.guard.run(crate::room::AGENT, &words).unwrap();
        run.success().unwrap();
        assert!(repository.is(&git, &into).unwrap());

        // git decides itself how many requests and connections it takes: the origin has counted.
        let mut rows = vec![format!("allow dns dns_query {HOST}:53 rule_allow")];
        if port == 443 {
            let connections = log.connections().unwrap().len() - connections;
            assert!(connections > 0);
            let row = format!("allow proxy connect {HOST}:443 rule_allow");
            rows.extend(std::iter::repeat_n(row, connections));
        } else {
            let requests = log.requests().unwrap().split_off(requests);
            assert!(requests.len() > 5, "{requests:?}");
            rows.extend(requests.iter().map(|request| {
                let path = request.target.split('?').next().unwrap();
                format!("allow proxy http_request {HOST}:80 GET {path} rule_allow")
            }));
        }
        let decisions = room.rows(&rows).unwrap();
        let helper = Path::new(helpers.trim()).join(format!("git-remote-{scheme}"));
        for decision in &decisions {
            let process = decision.process.as_ref().unwrap();
            assert_eq!(process.comm, "git-remote-http", "{}", row(decision));
            assert_eq!(process.exe.as_deref(), helper.to_str());
        }
    }

    let before = log.connections().unwrap().len();
    for (url, says, row) in [
        (
            "https://www.paste.example/files/.git",
            "Could not resolve host: www.paste.example",
            format!("deny dns dns_query {PASTE}:53 rule_deny"),
        ),
        (
            "http://203.0.113.16/files/.git",
            "Failed to connect",
            "deny kernel connect 203.0.113.16:80 no_rule".to_owned(),
        ),
    ] {
        let (words, into) = clone(&world, &git, url, "denied");
        let output = room.run(&words, &[row]).unwrap().output;
        assert_eq!(output.code(), 128, "{output}");
        assert!(output.stderr.contains(says), "{output}");
        assert!(!into.exists());
    }
    assert_eq!(log.connections().unwrap().len(), before);
    room.close().unwrap();
}

#[test]
fn git_clones_over_its_own_protocol_by_name_only() {
    let Some(git) = Program::find("git").unwrap() else {
        return;
    };
    let repository = Repository::create(&git).unwrap();
    let world = world("git-raw").start().unwrap();
    let daemon = world.internet().command(&git.path).args([
        "daemon",
        "--reuseaddr",
        "--export-all",
        "--log-destination=stderr",
        "--verbose",
        &format!("--base-path={}", repository.0.display()),
    ]);
    let daemon = daemon.arg(&repository.0).spawn().unwrap();
    wait_until("git daemon", Duration::from_secs(10), || {
        daemon.stderr().contains("Ready to rumble").then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", daemon.stderr()));
    let room = Room::open(&world).unwrap();
    let served = || daemon.stderr().matches("Connection from").count();

    let url = format!("git://{HOST}/.git");
    let (words, into) = clone(&world, &git, &url, "free");
    ungoverned(&world, words).unwrap().success().unwrap();
    assert!(repository.is(&git, &into).unwrap());

    let (words, into) = clone(&world, &git, &url, "governed");
    let rows = [
        format!("allow dns dns_query {HOST}:53 rule_allow"),
        format!("allow proxy connect {HOST}:{GIT} rule_allow"),
    ];
    let ran = room.run(&words, &rows).unwrap();
    ran.by(&git).unwrap().output.success().unwrap();
    assert!(repository.is(&git, &into).unwrap());
    wait_until("both clones", Duration::from_secs(5), || {
        (served() == 2).then_some(())
    })
    .unwrap();

    for (host, says, row) in [
        (
            PASTE,
            "unable to look up",
            format!("deny dns dns_query {PASTE}:53 rule_deny"),
        ),
        (
            "203.0.113.16",
            "Operation not permitted",
            format!("deny kernel connect 203.0.113.16:{GIT} no_rule"),
        ),
    ] {
        let url = format!("git://{host}/.git");
        let (words, _) = clone(&world, &git, &url, &format!("free-{host}"));
        ungoverned(&world, words).unwrap().success().unwrap();
        let before = served();
        let (words, into) = clone(&world, &git, &url, "denied");
        let ran = room.run(&words, &[row]).unwrap();
        let output = ran.by(&git).unwrap().output;
        assert_eq!(output.code(), 128, "{output}");
        assert!(output.stderr.contains(says), "{output}");
        assert!(!into.exists());
        assert_eq!(served(), before, "{host}");
    }
    room.close().unwrap();
}

#[test]
fn git_clones_inside_inspected_tls_and_each_of_its_requests_is_decided() {
    let Some(git) = Program::find("git").unwrap() else {
        return;
    };
    let repository = Repository::create(&git).unwrap();
    let world = world_with_files("git-inspected", &repository.0);
    let world = world.start().unwrap();
    let room = open(&world).unwrap();
    let log = world.origin(HOST).unwrap().log();
    let url = format!("https://{HOST}/files/.git");
    let (words, into) = clone(&world, &git, &url, "inspected");
    let run = inspected(&room, &words).run().unwrap();
    run.success().unwrap();
    assert!(repository.is(&git, &into).unwrap());
    let requests = log.requests().unwrap();
    assert!(requests.len() > 5, "{requests:?}");
    let mut rows = vec![format!("allow dns dns_query {HOST}:53 rule_allow")];
    rows.extend(requests.iter().map(|request| {
        let target = request.target.split('?').next().unwrap();
        let path = target.strip_prefix(&format!("https://{HOST}"));
        let path = path.unwrap_or(target);
        format!("allow proxy http_request {HOST}:443 GET {path} rule_allow")
    }));
    room.rows(&rows).unwrap();
}
