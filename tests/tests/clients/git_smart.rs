//! git by its smart protocol inside inspected TLS: clone, push and fetch, and rules on each.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use agentguard_tests::{Origin, Output, Process, World, address, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::git::output;
use crate::inspected::inspected;
use crate::room::{LATE, Program, Ran, Room, python, ungoverned};
use crate::serving::{certified, serving, trusting};

const HOST: &str = "git.example.com";
const PORT: u16 = 8443;

/// A repository that is served.
const PROJECT: &str = "project.git";
/// Another one.
const NOTES: &str = "notes.git";

/// More than git sends with a length: it announces none, and sends chunks.
const LARGE: usize = 3 << 20;

/// Everything is allowed, but for what a test adds.
const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: repositories
    match: { host: [git.example.com], port: [8443] }
    action: allow
    handling: inspect
";

const NO_PUSH: &str = "
  - id: no-push-to-notes
    match: { host: [git.example.com], method: [POST], path: ['/**/git-receive-pack'] }
    action: deny
    reason: Nothing is pushed from here.
  - id: no-push-to-project
    match: { host: [git.example.com], method: [GET], path: ['/project.git/info/refs'], query: { service: [git-receive-pack] } }
    action: deny
    reason: The project is not pushed to. Ask its owners.
";

const NOTHING_LARGE: &str = "
  - id: nothing-large
    match: { host: [git.example.com], path: ['/**/git-receive-pack'], body_over: 1MiB }
    action: deny
    reason: Nothing large is pushed.
";

/// A world with a server of repositories, which lives as long as its process.
struct Served {
    world: World,
    server: Process,
    git: Program,
}

impl Served {
    /// None where a program is missing and may be.
    fn start(name: &str) -> Result<Option<Self>> {
        let (Some(git), Some(python)) = (Program::find("git")?, python()?) else {
            return Ok(None);
        };
        let origin = Origin::at(&address::origin(0x10)).site(HOST);
        let world = World::new(name).origin(origin).start()?;
        let root = world.directory().join("served");
        fs::create_dir(&root)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/git_server.py");
        let server = world.internet().command(&python.path).arg(script);
        let server = server.arg(PORT.to_string()).arg(root);
        let server = serving(server.args(certified(&world, HOST)?))?;
        Ok(Some(Self { world, server, git }))
    }

    /// A guard with more rules.
    fn open(&self, rules: &str) -> Result<Room<'_>> {
        trusting(&self.world, HOST, &format!("{POLICY}{rules}"))
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.world.directory().join("served").join(name)
    }

    /// Makes a repository anew, with one commit.
    fn fresh(&self, name: &str) -> Result<()> {
        let path = self.repository(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        output(&self.git, &path, &["init", "-q", "--bare", "-b", "main"])?;
        output(&self.git, &path, &["config", "http.receivepack", "true"])?;
        self.commit_there(name, "first")
    }

    /// Somebody else's commit arrives.
    fn commit_there(&self, name: &str, file: &str) -> Result<()> {
        let theirs = tempfile::tempdir_in(self.world.directory())?;
        let path = self.repository(name);
        let from = path.to_str().context("not UTF-8")?;
        output(&self.git, theirs.path(), &["clone", "-q", from, "."])?;
        self.commit(theirs.path(), file, b"content\n")?;
        output(
            &self.git,
            theirs.path(),
            &["push", "-q", "origin", "HEAD:main"],
        )?;
        Ok(())
    }

    /// Commits a file.
    fn commit(&self, tree: &Path, file: &str, content: &[u8]) -> Result<()> {
        fs::write(tree.join(file), content)?;
        output(&self.git, tree, &["add", "."])?;
        output(&self.git, tree, &["commit", "-q", "-m", file])?;
        Ok(())
    }

    /// The refs and objects of a repository.
    fn content(&self, repository: &Path) -> Result<[String; 2]> {
        let refs = output(&self.git, repository, &["for-each-ref"])?;
        let objects = ["cat-file", "--batch-all-objects", "--batch-check"];
        Ok([refs, output(&self.git, repository, &objects)?])
    }

    /// The requests that the server has had, once there are as many.
    fn requests(&self, count: usize) -> Result<Vec<Value>> {
        let mut requests = Vec::new();
        let waited = wait_until("the requests", LATE, || {
            let all = self.server.stdout();
            let lines = all.lines().filter(|line| line.starts_with('{'));
            requests = lines
                .filter_map(|it| serde_json::from_str(it).ok())
                .collect();
            (requests.len() >= count).then_some(())
        });
        waited.with_context(|| format!("{requests:#?}\n{}", self.server.stderr()))?;
        Ok(requests)
    }

    /// The words of git, in a directory.
    fn words(&self, directory: &Path, words: &[&str]) -> Vec<OsString> {
        let before = [
            self.git.path.as_os_str(),
            "-C".as_ref(),
            directory.as_os_str(),
        ];
        let words = words.iter().map(OsStr::new);
        before
            .into_iter()
            .chain(words)
            .map(OsStr::to_owned)
            .collect()
    }
}

fn url(repository: &str) -> String {
    format!("https://{HOST}:{PORT}/{repository}")
}

/// What does not compress.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(size).collect()
}

fn query() -> String {
    format!("allow dns dns_query {HOST}:53 rule_allow")
}

fn row(verdict: &str, method: &str, path: &str) -> String {
    format!("{verdict} proxy http_request {HOST}:{PORT} {method} /{path} rule_{verdict}")
}

/// What came of a day's work.
#[derive(Debug, Eq, PartialEq)]
struct Day {
    /// Of each command.
    said: Vec<[String; 2]>,
    /// There and here.
    content: [[String; 2]; 2],
    requests: Vec<Value>,
}

const COMMANDS: usize = 4;

/// Clone, a small push, a large one, fetch.
fn day(served: &Served, name: &str, run: impl Fn(&[OsString]) -> Result<Output>) -> Result<Day> {
    served.fresh(PROJECT)?;
    let before = served.requests(0)?.len();
    let directory = served.world.directory().join(name);
    let tree = directory.join("tree");
    fs::create_dir(&directory)?;
    let mut said = Vec::new();
    let mut say = |directory: &Path, words: &[&str]| -> Result<()> {
        let output = run(&served.words(directory, words))?.success()?;
        said.push([output.stdout, output.stderr]);
        Ok(())
    };
    say(&directory, &["clone", &url(PROJECT), "tree"])?;
    served.commit(&tree, "small", b"a line\n")?;
    say(&tree, &["push", "origin", "main"])?;
    served.commit(&tree, "large", &noise(LARGE))?;
    say(&tree, &["push", "origin", "main"])?;
    served.commit_there(PROJECT, "theirs")?;
    say(&tree, &["fetch"])?;
    ensure!(said.len() == COMMANDS);
    let there = served.content(&served.repository(PROJECT))?;
    let here = served.content(&tree)?;
    // The last request of each command has been answered, so the server tells of it in a moment.
    let fetched = |requests: &[Value]| {
        let fetches = requests
            .iter()
            .filter(|it| it["target"] == "/project.git/git-upload-pack");
        fetches.count() == 4
    };
    let requests = wait_until("the requests", LATE, || match served.requests(before) {
        Ok(mut all) => Some(Ok(all.split_off(before)))
            .filter(|it| it.as_ref().is_ok_and(|it: &Vec<Value>| fetched(it))),
        Err(error) => Some(Err(error)),
    })??;
    Ok(Day {
        said,
        content: [there, here],
        requests,
    })
}

#[test]
fn git_clones_pushes_and_fetches_as_without_the_guard() {
    let Some(served) = Served::start("git-smart").unwrap() else {
        return;
    };
    let free = day(&served, "free", |words| ungoverned(&served.world, words)).unwrap();
    let [there, here] = &free.content;
    assert_eq!(there[1], here[1], "{free:#?}");
    assert!(free.said[2][1].contains("main -> main"), "{free:#?}");
    let told = |request: &Value, key: &str| request[key].clone();
    let posts = free.requests.iter().filter(|it| it["method"] == "POST");
    let pushes: Vec<_> = posts
        .clone()
        .filter(|it| it["target"] == "/project.git/git-receive-pack")
        .map(|it| {
            (
                told(it, "chunked"),
                it["size"].as_u64().unwrap() > LARGE as u64,
            )
        })
        .collect();
    // The second is what git tries a large push with.
    let no = json!(false);
    let expected = [(no.clone(), false), (no, false), (json!(true), true)];
    assert_eq!(pushes, expected, "{free:#?}");
    let version = json!(["git-protocol", "version=2"]);
    let mut fields = free
        .requests
        .iter()
        .map(|it| it["fields"].as_array().unwrap());
    assert!(fields.any(|it| it.contains(&version)), "{free:#?}");

    let room = served.open("").unwrap();
    let governed = day(&served, "governed", |words| inspected(&room, words).run()).unwrap();
    assert_eq!(governed, free);
    let requests = governed.requests.iter().map(|request| {
        let target = request["target"].as_str().unwrap();
        let path = target.split('?').next().unwrap().trim_start_matches('/');
        row("allow", request["method"].as_str().unwrap(), path)
    });
    let queries = std::iter::repeat_n(query(), COMMANDS);
    let rows: Vec<_> = requests.chain(queries).collect();
    for decision in room.rows(&rows).unwrap() {
        let process = decision.process.as_ref().unwrap();
        assert_eq!(process.comm, "git-remote-http", "{process:?}");
    }
    room.close().unwrap();
}

/// Clones a repository as the agent, and makes a commit there.
fn cloned(served: &Served, room: &Room<'_>, repository: &str) -> Result<PathBuf> {
    served.fresh(repository)?;
    let tree = served.world.directory().join(format!("tree-{repository}"));
    let into = tree.to_str().context("not UTF-8")?;
    let url = url(repository);
    let words = served.words(served.world.directory(), &["clone", &url, into]);
    let get = row("allow", "GET", &format!("{repository}/info/refs"));
    let post = row("allow", "POST", &format!("{repository}/git-upload-pack"));
    let rows = [query(), get, post.clone(), post];
    room.call(inspected(room, &words), &rows)?
        .output
        .success()?;
    Ok(tree)
}

/// Pushes as the agent.
fn push(served: &Served, room: &Room<'_>, tree: &Path, rows: &[String]) -> Result<Ran> {
    let words = served.words(tree, &["push", "origin", "main"]);
    let rows = [&[query()], rows].concat();
    room.call(inspected(room, &words), &rows)
}

#[test]
fn git_may_read_where_it_may_not_push_and_says_why() {
    let Some(served) = Served::start("git-no-push").unwrap() else {
        return;
    };
    let room = served.open(NO_PUSH).unwrap();
    let asked = |verdict, repository| row(verdict, "GET", &format!("{repository}/info/refs"));
    let sent = row("deny", "POST", &format!("{NOTES}/git-receive-pack"));
    for (repository, rows) in [
        (PROJECT, vec![asked("deny", PROJECT)]),
        (NOTES, vec![asked("allow", NOTES), sent]),
    ] {
        let tree = cloned(&served, &room, repository).unwrap();
        let before = served.content(&served.repository(repository)).unwrap();
        served.commit(&tree, "mine", b"a line\n").unwrap();
        let ran = push(&served, &room, &tree, &rows).unwrap();
        let output = &ran.output;
        assert_ne!(output.code(), 0, "{output}");
        if repository == PROJECT {
            let id = ran.decisions.last().unwrap().id;
            let told = format!(
                "remote: The project is not pushed to. Ask its owners. (agentguard explain {id})\n"
            );
            assert!(output.stderr.contains(&told), "{output}");
        } else {
            // Of an error to a push itself git shows nothing but this.
            assert!(output.stderr.contains("RPC failed; HTTP 403"), "{output}");
        }
        let after = served.content(&served.repository(repository)).unwrap();
        assert_eq!(before, after);

        let fetch = [
            query(),
            asked("allow", repository),
            row("allow", "POST", &format!("{repository}/git-upload-pack")),
        ];
        let words = served.words(&tree, &["fetch"]);
        let ran = room.call(inspected(&room, &words), &fetch).unwrap();
        ran.output.success().unwrap();
    }
    let requests = served.requests(1).unwrap();
    let pushed = |it: &&Value| it["target"].as_str().unwrap().ends_with("git-receive-pack");
    let pushed: Vec<_> = requests
        .iter()
        .filter(pushed)
        .map(|it| &it["target"])
        .collect();
    assert_eq!(pushed, ["/notes.git/info/refs?service=git-receive-pack"]);
    room.close().unwrap();
}

#[test]
fn a_push_that_is_too_large_is_cut_and_leaves_nothing_there() {
    let Some(served) = Served::start("git-large").unwrap() else {
        return;
    };
    let room = served.open(NOTHING_LARGE).unwrap();
    let tree = cloned(&served, &room, PROJECT).unwrap();
    let ask = row("allow", "GET", &format!("{PROJECT}/info/refs"));
    let send = row("allow", "POST", &format!("{PROJECT}/git-receive-pack"));
    served.commit(&tree, "small", b"a line\n").unwrap();
    let ran = push(&served, &room, &tree, &[ask.clone(), send.clone()]).unwrap();
    ran.output.success().unwrap();
    let before = served.content(&served.repository(PROJECT)).unwrap();
    assert_eq!(before[1], served.content(&tree).unwrap()[1]);

    served.commit(&tree, "large", &noise(LARGE)).unwrap();
    let cut = row("deny", "POST", &format!("{PROJECT}/git-receive-pack"));
    let ran = push(&served, &room, &tree, &[ask, send.clone(), send, cut]).unwrap();
    assert_ne!(ran.output.code(), 0, "{}", ran.output);
    assert!(ran.output.stderr.contains("HTTP 403"), "{}", ran.output);
    let broken = wait_until("the broken request", LATE, || {
        let requests = served.requests(0).ok()?;
        requests.into_iter().find(|it| it["status"].is_null())
    })
    .unwrap();
    assert!(broken["size"].as_u64().unwrap() <= 1 << 20, "{broken}");
    assert_eq!(before, served.content(&served.repository(PROJECT)).unwrap());
    room.close().unwrap();
}
