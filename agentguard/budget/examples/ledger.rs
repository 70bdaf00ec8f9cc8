//! What it costs to reserve and to settle: `ledger embedded DIRECTORY`, `ledger redis` and `ledger repeat DIRECTORY COUNT`.
//!
//! One call of a language model is charged to five accounts. Prints each figure as a line of JSON: `case`, `subject`,
//! `metric`, `unit`, `value`. Beside the ledger of one host, a write of as many bytes as its journal takes for a call,
//! to a file in the same directory; beside the one that hosts share, `INCR` of one key over a connection of its own, on a
//! `redis-server` that this starts and ends. `cargo xtask bench budget` runs both. `repeat` reserves and settles so many calls
//! in the ledger of one host, for `cargo xtask instructions`.

use std::error::Error;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentguard_budget::{Charge, Embedded, Ledger, Options, Scope, Shared, Terms, Want};
use agentguard_model::budget::{Budget, Dimension, Reached, Unit, Window};
use jiff::Timestamp;
use serde_json::json;

/// Calls that are timed for one figure of the ledger of one host.
const CALLS: u32 = 200_000;
/// And of the one that is shared.
const SHARED_CALLS: u32 = 20_000;
/// Callers at the same time, where it is shared.
const CALLERS: u32 = 64;
/// What the journal takes for a call and its settlement.
const WRITTEN: [u8; 200] = [0; 200];
const INCR: &[u8] = b"*2\r\n$4\r\nINCR\r\n$5\r\nbench\r\n";

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [task, directory] if task == "embedded" => embedded(Path::new(directory)),
        [task] if task == "redis" => redis(),
        [task, directory, count] if task == "repeat" => {
            repeat(Path::new(directory), count.parse()?)
        }
        _ => Err(
            "usage: ledger embedded DIRECTORY | ledger redis | ledger repeat DIRECTORY COUNT"
                .into(),
        ),
    }
}

/// One call, with the accounts that it is charged to.
fn call() -> Want {
    let of = |id: &str, dimension: Dimension, value: &str| Charge {
        scope: Scope::of([(&dimension, value)]),
        budget: Arc::new(Budget {
            id: id.into(),
            unit: Unit::Tokens,
            limit: 1 << 50,
            window: Window::Day,
            zone: Some("Europe/Berlin".into()),
            per: Box::new([dimension]),
            reached: Reached::Deny,
            on_loss: None,
        }),
        terms: Terms {
            fixed: 1200,
            per_million: 1_000_000,
        },
        place: 0,
    };
    let charges = vec![
        of("agent-day", Dimension::Agent, "coder"),
        of("user-day", Dimension::User, "ada@example.com"),
        of("session", Dimension::Session, "01JD7Q3N8W6XK2"),
        of("tenant-day", Dimension::Label("tenant".into()), "acme"),
        of("model-day", Dimension::Model, "claude-sonnet-4-5"),
    ];
    Want {
        charges,
        tokens: 4096,
        least: 1,
        most: 4096,
    }
}

fn embedded(directory: &Path) -> Outcome {
    let case = "reserve-settle";
    let ledger = Embedded::open(&directory.join("ledger"), Timestamp::now())?;
    let (want, used) = (call(), [1700; 5]);
    let now = Timestamp::now().as_millisecond();
    figures(case, "agentguard", CALLS, || {
        let granted = ledger.reserves(&want, now)?;
        ledger.settle(granted.id, Some(&used), now);
        Ok(())
    })?;
    let mut file = File::create(directory.join("written"))?;
    figures(case, "write_200_bytes", CALLS, || {
        Ok(file.write_all(&WRITTEN)?)
    })
}

fn repeat(directory: &Path, count: u32) -> Outcome {
    let ledger = Embedded::open(&directory.join("ledger"), Timestamp::now())?;
    let (want, used) = (call(), [1700; 5]);
    let now = Timestamp::now().as_millisecond();
    for _ in 0..count {
        let granted = ledger.reserves(&want, now)?;
        ledger.settle(granted.id, Some(&used), now);
    }
    Ok(())
}

fn redis() -> Outcome {
    let case = "reserve-settle-redis";
    let (mut server, port) = start()?;
    let measured = measure_redis(case, port);
    server.kill()?;
    server.wait()?;
    measured
}

fn measure_redis(case: &str, port: u16) -> Outcome {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    figures(case, "redis_incr", SHARED_CALLS, || {
        stream.write_all(INCR)?;
        let mut answer = [0; 64];
        match stream.read(&mut answer)? {
            0 => Err("redis-server ended".into()),
            _ => Ok(()),
        }
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let options = Options {
        timeout: Duration::from_secs(10),
        ..Options::new(format!("127.0.0.1:{port}"), "bench")
    };
    let shared = Arc::new(runtime.block_on(Shared::open(options)));
    let (want, used) = (call(), [1700; 5]);
    let now = Timestamp::now().as_millisecond();
    // What a call waits for; it is settled beside.
    figures(case, "agentguard", SHARED_CALLS, || {
        let granted = runtime.block_on(shared.reserve(&want, now))?;
        shared.settle(granted.id, Some(&used), now);
        Ok(())
    })?;
    // Many callers on one connection.
    let begun = Instant::now();
    runtime.block_on(async {
        let callers = (0..CALLERS).map(|_| {
            let (shared, want) = (Arc::clone(&shared), want.clone());
            tokio::spawn(async move {
                for _ in 0..SHARED_CALLS / CALLERS {
                    let Ok(granted) = shared.reserve(&want, now).await else {
                        return false;
                    };
                    shared.settle(granted.id, Some(&used), now);
                }
                true
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            if !caller.await? {
                return Outcome::Err("a reservation was refused".into());
            }
        }
        let shared = Arc::into_inner(shared).ok_or("it is still used")?;
        match shared.close(Duration::from_secs(60)).await {
            true => Ok(()),
            false => Err("not all was settled".into()),
        }
    })?;
    let calls = f64::from(SHARED_CALLS / CALLERS * CALLERS);
    let per_second = calls / begun.elapsed().as_secs_f64();
    sample(
        case,
        "agentguard",
        "per_second_64_callers",
        "1/s",
        per_second,
    );
    Ok(())
}

/// A server that keeps nothing, on a port of its own.
fn start() -> Outcome<(Child, u16)> {
    let free = TcpListener::bind(("127.0.0.1", 0))?;
    let port = free.local_addr()?.port();
    drop(free);
    let server = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no"])
        .stdout(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > deadline {
            return Err("redis-server does not start".into());
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    Ok((server, port))
}

fn figures(case: &str, subject: &str, calls: u32, mut each: impl FnMut() -> Outcome) -> Outcome {
    for _ in 0..calls / 20 {
        each()?;
    }
    let mut times = Vec::with_capacity(usize::try_from(calls)?);
    let begun = Instant::now();
    for _ in 0..calls {
        let started = Instant::now();
        each()?;
        times.push(started.elapsed());
    }
    let all = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    for (metric, share) in [("p50", 50), ("p99", 99)] {
        let time = times.get(times.len() * share / 100).copied();
        let time = time.unwrap_or_default().as_secs_f64() * 1e6;
        sample(case, subject, metric, "us", time);
    }
    sample(case, subject, "per_second", "1/s", f64::from(calls) / all);
    Ok(())
}

fn sample(case: &str, subject: &str, metric: &str, unit: &str, value: f64) {
    let line = json!({
        "case": case, "subject": subject, "metric": metric, "unit": unit, "value": value,
    });
    println!("{line}");
}
