//! Opening a record: what a dead process left is put right, then the threads start.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::aggregate::Aggregator;
use crate::counts::Counts;
use crate::desk::{Desk, Open};
use crate::entry::{Entry, Gap, Note, NoteKind};
use crate::frame::{Scanner, Step};
use crate::grown;
use crate::indexer::Indexer;
use crate::queue::Pending;
use crate::quota::Quotas;
use crate::record::{OpenError, Options};
use crate::segment::{self, Broken, Position};
use crate::shared::Shared;
use crate::sync::Syncer;
use crate::writer::Writer;

/// How long an earlier owner may take to go.
const LEAVING: Duration = Duration::from_secs(1);

/// The end of the log, as it was found.
struct Tail {
    file: File,
    at: Position,
    /// What was cut off.
    torn: Option<Note>,
    /// Damage in the last segment, further up.
    damage: Vec<Broken>,
}

/// Opens the log and starts its threads.
pub(crate) fn open(dir: &Path, options: Options) -> Result<(Arc<Shared>, Open), OpenError> {
    let failed = |operation: &'static str| {
        move |source| OpenError::Io {
            operation,
            dir: dir.display().to_string(),
            source,
        }
    };
    segment::make_dir(dir).map_err(failed("make the directory"))?;
    let held = segment::open_file(&dir.join("lock")).map_err(failed("open the lock"))?;
    if !lock(&held).map_err(failed("lock"))? {
        return Err(OpenError::InUse {
            dir: dir.display().to_string(),
        });
    }
    let mut segments: BTreeMap<u64, u64> = segment::list(dir)
        .map_err(failed("list the segments"))?
        .into_iter()
        .collect();
    let tail = match segments.last_key_value() {
        Some((first, length)) => {
            recover(dir, *first, *length).map_err(failed("read the last segment"))?
        }
        None => Tail {
            file: segment::create(dir, 1).map_err(failed("make the first segment"))?,
            at: Position {
                number: 1,
                segment: 1,
                offset: segment::FIRST,
            },
            torn: None,
            damage: Vec::new(),
        },
    };
    segments.insert(tail.at.segment, tail.at.offset);
    let (counts, left) = Counts::open(dir).map_err(failed("open the counts"))?;

    let shared = Arc::new(Shared::new(dir.to_owned(), segments, tail.at));
    let mut kept = Pending::default();
    if let Some(note) = tail.torn {
        tracing::warn!("{}", note.message);
        kept.add(Entry::Note(note));
    }
    for broken in &tail.damage {
        shared.tell_damage(broken);
    }
    if left.damaged > 0 {
        kept.add(Entry::Gap(Gap {
            source: "counts".to_owned(),
            lost: 0,
            from: None,
            to: None,
            time: jiff::Timestamp::now(),
            message: Some(format!(
                "{} counts of identical denials cannot be read: each of these records stands for \
                 at least as many attempts as it says",
                left.damaged
            )),
        }));
    }
    let now = Instant::now();
    let mut aggregator = Aggregator::new(options.identical_per_second);
    for (slot, count) in left.counts {
        shared.count(&count, false);
        aggregator.resume(count, slot, now);
    }

    let syncer = Arc::new(Syncer::new(Arc::clone(&shared), options.sync_interval));
    let (grows, grown) = grown::grows();
    let quotas = Quotas::new(options.quota, now);
    let writer = Writer {
        shared: Arc::clone(&shared),
        options,
        syncer: Arc::clone(&syncer),
        grows,
        counts,
        segment: Arc::new(tail.file),
        at: tail.at,
        aggregator,
        quotas,
        kept,
        agent: None,
        dirty_tail: false,
        must_rotate: !tail.damage.is_empty(),
        slow_until: None,
    };
    let open = Open(Arc::new(Desk::new(Some(writer))));
    let desk = Arc::clone(&open.0);
    let indexer = Indexer::new(Arc::clone(&shared), grown);
    // If one of them cannot be started, dropping this ends those that were.
    let mut ending = Ending {
        shared: Arc::clone(&shared),
        syncer: Arc::clone(&syncer),
        threads: Vec::new(),
        _lock: held,
    };
    let start = failed("start a thread");
    let threads = spawn("record-sync", move || syncer.run())
        .and_then(|sync| Ok([sync, spawn("record-index", move || indexer.run())?]));
    ending.threads.extend(threads.map_err(&start)?);
    spawn("record-write", move || {
        let closers = desk.run();
        ending.finish();
        drop(ending);
        for closer in closers {
            // Whoever asked may have gone meanwhile.
            let _ = closer.send(());
        }
    })
    .map_err(start)?;
    Ok((shared, open))
}

/// Takes the lock; whether it is free, or becomes so soon. The process that had it may be on its way
/// out, or may have passed it for a moment to a child between fork and exec.
fn lock(file: &File) -> io::Result<bool> {
    let deadline = Instant::now() + LEAVING;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::park_timeout(LEAVING / 100);
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// What has to happen when the writer ends, also by a panic.
struct Ending {
    shared: Arc<Shared>,
    syncer: Arc<Syncer>,
    threads: Vec<JoinHandle<()>>,
    _lock: File,
}

impl Ending {
    /// Ends the other threads and waits for them. The writer, which wakes the indexer, is gone.
    fn finish(&mut self) {
        self.syncer.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the record died");
            }
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.syncer.close();
        self.shared.set_index(None);
        self.shared.close();
    }
}

/// Reads the last segment to its end, and cuts off what was not written whole.
fn recover(dir: &Path, first: u64, length: u64) -> io::Result<Tail> {
    let path = segment::path(dir, first);
    let start = Position {
        number: first,
        segment: first,
        offset: segment::FIRST,
    };
    if length < segment::FIRST {
        // It was being made and holds nothing.
        let file = segment::create(dir, first)?;
        return Ok(Tail {
            file,
            at: start,
            torn: None,
            damage: Vec::new(),
        });
    }
    let file = segment::open_file(&path)?;
    let mut damage = Vec::new();
    let mut magic = [0; 8];
    file.read_exact_at(&mut magic, 0)?;
    if magic != segment::MAGIC {
        damage.push(Broken::head(first));
    }
    let mut scanner = Scanner::new(&file, segment::FIRST, length, first);
    let mut at = start;
    let mut torn = None;
    while let Some(step) = scanner.next()? {
        match step {
            Step::Entry { .. } => {}
            Step::Damage {
                offset,
                until,
                missing,
            } if until < length => {
                damage.push(Broken::stretch(first, offset, until, missing));
            }
            Step::Damage { offset, until, .. } => {
                torn = Some((offset, until));
                continue;
            }
        }
        at.offset = scanner.offset();
        at.number = scanner.expected();
    }
    let torn = match torn {
        None => None,
        Some((offset, until)) => {
            file.set_len(at.offset)?;
            file.sync_all()?;
            Some(Note::now(
                NoteKind::TornTail,
                format!(
                    "cut {} bytes off {} at offset {offset}, before entry {}: the log ended in an \
                     entry that was not written whole, because the process or the machine \
                     stopped. Only if the machine lost power can it be one that had taken effect",
                    until - offset,
                    path.display(),
                    at.number
                ),
            ))
        }
    };
    Ok(Tail {
        file,
        at,
        torn,
        damage,
    })
}
