//! The escape suite: every way out that we know, one small program each (`tests/escapes`), tried where
//! nobody is governed, under `agentguard run`, and by an adopted agent that is root.
//!
//! Each way has a canary's address of its own and a mark in what it sends. What counts is what the tap
//! on the wire saw, of any protocol, not what the programs say. A way that does not get out where nobody
//! is governed proves nothing, so that fails too.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends where it cannot go on, helpers included"
)]

mod asked;
mod bench;
mod older;
mod ways;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use agentguard_tests::Destination;

use bench::{Bench, Setting};
use ways::{Adopted, Families, Needs, OTHERS, WAYS, Way};

/// A way with one version of IP.
#[derive(Clone, Copy)]
struct Try {
    way: &'static Way,
    six: bool,
    number: usize,
}

fn tries() -> Vec<Try> {
    let mut tries = Vec::new();
    for (number, way) in WAYS.iter().enumerate() {
        for six in [false, true] {
            let fits = match way.families {
                Families::Four => !six,
                Families::Six => six,
                Families::Both => true,
            };
            if fits {
                tries.push(Try { way, six, number });
            }
        }
    }
    tries
}

impl Try {
    fn family(self) -> &'static str {
        if self.six { "v6" } else { "v4" }
    }

    /// An address that nobody else is told, among those of the internet where nobody lives.
    fn address(self) -> String {
        // 129 to 131 are the tun device's.
        let number = self.number + 2;
        if self.six {
            format!("2001:db8:113::6:{number:x}")
        } else {
            format!("192.0.2.{number}")
        }
    }

    /// The multicast group that stands for it (`join.h`).
    fn group(self) -> IpAddr {
        match self.address().parse().unwrap() {
            IpAddr::V4(address) => {
                let [_, b, c, d] = address.octets();
                IpAddr::from([239, b, c, d])
            }
            IpAddr::V6(address) => {
                let mut bytes = address.octets();
                bytes[..2].copy_from_slice(&[0xff, 5]);
                IpAddr::from(bytes)
            }
        }
    }

    fn mark(self, setting: Setting) -> String {
        let setting = setting.letter();
        format!("escape{}x{}x{setting}", self.number, self.family())
    }
}

/// What the wire saw of one setting: the tries that got out.
struct Seen {
    out: BTreeSet<(usize, bool)>,
    /// What the programs said, for the report.
    said: Vec<(usize, bool, String)>,
}

impl Seen {
    fn got_out(&self, a_try: Try) -> bool {
        self.out.contains(&(a_try.number, a_try.six))
    }

    fn said(&self, a_try: Try) -> &str {
        let found = self
            .said
            .iter()
            .find(|(number, six, _)| (*number, *six) == (a_try.number, a_try.six));
        found.map_or("", |(_, _, text)| text)
    }
}

/// `try NAME PROGRAM ADDRESS MARK [USER]`: what it says and how it ends goes to a file of its name.
const TRY: &str = r#"
try() (
    if [ -n "$5" ]; then export ESCAPE_UID="$5"; fi
    "$2" "$3" 9 "$4" >/dev/null 2>"LOG/$1"
    echo "exit $?" >>"LOG/$1"
)
"#;

/// Tries all of them in one setting, one after the other, in one process tree.
fn attempt(bench: &Bench<'_>, setting: Setting) -> Seen {
    let before = bench.world.all_arrivals().unwrap();
    let directory = bench.world.directory();
    let log = directory.join(format!("said-{}", setting.letter()));
    fs::create_dir(&log).unwrap();
    rustix::fs::chmod(&log, rustix::fs::Mode::from_raw_mode(0o777)).unwrap();
    let mut script = TRY.replace("LOG", &log.display().to_string());
    for a_try in tries() {
        let Try { way, .. } = a_try;
        if matches!(
            (setting, way.adopted),
            (Setting::Adopted, Adopted::NotTried)
        ) {
            continue;
        }
        // Where nobody is governed the least user that can has to do it.
        let user = match (setting, way.needs) {
            (Setting::Free, Needs::User) => "1000",
            _ => "",
        };
        writeln!(
            script,
            "try {}-{} {} {} {} {user}",
            a_try.number,
            a_try.family(),
            bench.program(way.name).display(),
            a_try.address(),
            a_try.mark(setting),
        )
        .unwrap();
    }
    // What is allowed gets out in each setting: that nothing else does is the guard's doing. An agent that
    // has just filled its share of the events is refused until the daemon has read them.
    let allowed = format!("escapeallowedx{}", setting.letter());
    writeln!(
        script,
        "for i in $(seq 30); do {} $ESCAPE_ALLOWED 7 {allowed} && exit; sleep 1; done; exit 1",
        bench.program("udp-sendto").display()
    )
    .unwrap();
    let file = directory.join(format!("script-{}", setting.letter()));
    fs::write(&file, script).unwrap();
    let words = ["sh".into(), file.into_os_string()];
    let output = bench.run(setting, words.to_vec());
    let output = output.success().unwrap();
    assert!(output.stdout.is_empty(), "{output}");
    let after = bench.world.all_arrivals().unwrap();
    let marks = bench.world.marks().unwrap();
    assert!(marks.contains_key(&allowed), "{setting:?}: what is allowed");
    let mut seen = Seen {
        out: BTreeSet::new(),
        said: Vec::new(),
    };
    for a_try in tries() {
        let places = [a_try.address().parse().unwrap(), a_try.group()];
        let count = |all: &[(Destination, u64)]| -> u64 {
            all.iter()
                .filter(|(to, _)| places.contains(&to.ip))
                .map(|(_, count)| count)
                .sum()
        };
        let marked = marks.contains_key(&a_try.mark(setting));
        if marked || count(&after) > count(&before) {
            seen.out.insert((a_try.number, a_try.six));
        }
        let path = log.join(format!("{}-{}", a_try.number, a_try.family()));
        let said = fs::read_to_string(path).unwrap_or_default();
        let said = said.trim().replace('\n', ", ");
        let tried = !matches!(
            (setting, a_try.way.adopted),
            (Setting::Adopted, Adopted::NotTried)
        );
        // A program that was not executed at all proves nothing.
        let executed = said.rsplit_once("exit ").is_some_and(|(_, code)| {
            let code: Result<u32, _> = code.parse();
            code.is_ok_and(|code| !matches!(code, 2 | 126 | 127))
        });
        assert!(!tried || executed, "{} {setting:?}: {said}", a_try.way.name);
        seen.said.push((a_try.number, a_try.six, said));
    }
    seen
}

#[test]
fn no_way_leads_out() {
    let Some(programs) = bench::programs() else {
        return;
    };
    let world = bench::world("escape");
    let bench = Bench::new(&world, &programs);
    let free = attempt(&bench, Setting::Free);
    let user = attempt(&bench, Setting::Run);
    let root = attempt(&bench, Setting::RunRoot);
    let adopted = attempt(&bench, Setting::Adopted);
    let lsm = bench.lsm();
    let all_parts = std::env::var_os("AGENTGUARD_ESCAPE_ALL_PARTS").is_some();

    let mut wrong = Vec::new();
    let mut table = String::new();
    for a_try in tries() {
        let Try { way, .. } = a_try;
        let name = format!("{} {}", way.name, a_try.family());
        let columns = [&free, &user, &root, &adopted].map(|seen| match seen.got_out(a_try) {
            true => "OUT",
            false => "-",
        });
        writeln!(
            table,
            "{name:28} free {:4} run {:4} run as root {:4} adopted {:4}",
            columns[0], columns[1], columns[2], columns[3]
        )
        .unwrap();
        if !free.got_out(a_try) {
            let absent = free.said(a_try).ends_with("exit 3");
            let optional = !all_parts || !is_at_least(way.since);
            if !(absent && way.part.is_some() && optional) {
                wrong.push(format!(
                    "{name} proves nothing: nobody stops it, and it does not get out: {}",
                    free.said(a_try)
                ));
            }
            continue;
        }
        let run = lsm || !way.by_lsm && (!way.scoped || is_at_least(SCOPES));
        if user.got_out(a_try) == run {
            wrong.push(format!("{name} under `run`: {}", user.said(a_try)));
        }
        let closed = match way.adopted {
            Adopted::Closed => true,
            Adopted::Lsm => lsm,
            Adopted::Open => false,
            Adopted::NotTried => continue,
        };
        if adopted.got_out(a_try) == closed {
            wrong.push(format!(
                "{name}, adopted, should be {}: {}",
                if closed { "closed" } else { "open" },
                adopted.said(a_try)
            ));
        }
        // Whoever the command runs as, what the gate closes is closed.
        if way.adopted == Adopted::Closed && root.got_out(a_try) {
            wrong.push(format!("{name} under `run` as root: {}", root.said(a_try)));
        }
    }
    println!("{table}LSM programs: {lsm}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first kernel whose Landlock has scopes.
const SCOPES: (u32, u32) = (6, 12);

/// Whether the running kernel is this one or newer.
fn is_at_least(wanted: (u32, u32)) -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_str().unwrap();
    let mut numbers = release.split('.').map(|part| part.parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= wanted,
        _ => panic!("what is {release}?"),
    }
}

/// `docs/threat-model.md` has a row for each way, and no other.
#[test]
fn the_threat_model_names_every_way() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/threat-model.md");
    let Ok(text) = fs::read_to_string(path) else {
        // Where the suite runs without its sources.
        assert!(
            std::env::var_os("AGENTGUARD_ESCAPES").is_some(),
            "no {path}"
        );
        return;
    };
    let rows: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let ways: BTreeSet<&str> = WAYS.iter().chain(OTHERS).map(|way| way.name).collect();
    let missing: Vec<_> = ways.difference(&rows).collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
}
