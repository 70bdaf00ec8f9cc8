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
mod document;
mod older;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use agentguard_tests::{Destination, kernel};

use bench::{Bench, Setting};
use ways::{Adopted, Families, Needs, Run, WAYS, Way};

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

    /// What each of its packets may say: the mark, or where there are several kinds the mark of each.
    fn marks(self, setting: Setting) -> Vec<String> {
        let mark = self.mark(setting);
        match self.way.marks {
            1 => vec![mark],
            several => (0..several).map(|kind| format!("{mark}x{kind}")).collect(),
        }
    }
}

/// What the wire saw of one setting.
struct Seen {
    /// Of each try, how many of its kinds got out.
    out: BTreeMap<(usize, bool), usize>,
    /// What the programs said, for the report.
    said: Vec<(usize, bool, String)>,
}

impl Seen {
    fn out(&self, a_try: Try) -> usize {
        let found = self.out.get(&(a_try.number, a_try.six));
        found.copied().unwrap_or_default()
    }

    /// Whether all of it got out, and none of it; neither, where some did.
    fn is(&self, a_try: Try, open: bool) -> bool {
        self.out(a_try) == if open { a_try.way.marks } else { 0 }
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
try() {
    if [ -n "$5" ]; then
        ESCAPE_UID="$5" "$2" "$3" 9 "$4" >/dev/null 2>"LOG/$1"
    else
        "$2" "$3" 9 "$4" >/dev/null 2>"LOG/$1"
    fi
    echo "exit $?" >>"LOG/$1"
}
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
        out: BTreeMap::new(),
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
        let said = a_try.marks(setting);
        let marked = said.iter().filter(|mark| marks.contains_key(*mark));
        let counted = usize::from(count(&after) > count(&before));
        let out = marked.count().max(counted);
        seen.out.insert((a_try.number, a_try.six), out);
        let path = log.join(format!("{}-{}", a_try.number, a_try.family()));
        let said = fs::read_to_string(path).unwrap_or_default();
        let said = said.trim().replace('\n', ", ");
        // A program that was not executed at all proves nothing.
        let executed = said.rsplit_once("exit ").is_some_and(|(_, code)| {
            let code: Result<u32, _> = code.parse();
            code.is_ok_and(|code| !matches!(code, 2 | 126 | 127))
        });
        assert!(executed, "{} {setting:?}: {said}", a_try.way.name);
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

    let mut wrong = Vec::new();
    let mut table = String::new();
    let mut absent = BTreeSet::new();
    for a_try in tries() {
        let Try { way, .. } = a_try;
        let name = format!("{} {}", way.name, a_try.family());
        let columns = [&free, &user, &root, &adopted].map(|seen| match seen.out(a_try) {
            0 => "-",
            some if some < way.marks => "SOME",
            _ => "OUT",
        });
        writeln!(
            table,
            "{name:28} free {:4} run {:4} run as root {:4} adopted {:4}",
            columns[0], columns[1], columns[2], columns[3]
        )
        .unwrap();
        if !free.is(a_try, true) {
            match way.part.filter(|_| free.said(a_try).ends_with("exit 3")) {
                Some(part) => {
                    absent.insert(part);
                }
                None => wrong.push(format!(
                    "{name} proves nothing: nobody stops it, and it does not get out: {}",
                    free.said(a_try)
                )),
            }
            continue;
        }
        let run = match way.run {
            Run::Closed => Some(false),
            Run::Lsm => Some(!lsm),
            Run::Scoped => Some(!lsm && !is_at_least(SCOPES)),
            Run::NotTried => None,
        };
        let in_place = match way.adopted {
            Adopted::Closed => Some(false),
            Adopted::Lsm => Some(!lsm),
            Adopted::Open => Some(true),
            Adopted::NotTried => None,
        };
        for (setting, seen, expected) in [
            ("under `run` as a user", &user, run),
            ("under `run` as root", &root, run),
            ("adopted", &adopted, in_place),
        ] {
            if let Some(open) = expected.filter(|open| !seen.is(a_try, *open)) {
                let should = if open { "open" } else { "closed" };
                let said = seen.said(a_try);
                wrong.push(format!("{name}, {setting}, should be {should}: {said}"));
            }
        }
    }
    println!("{table}LSM programs: {lsm}");
    for part in absent {
        if let Err(error) = kernel::absent("no_way_leads_out", part) {
            wrong.push(error.to_string());
        }
    }
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
