//! A disk that is really full: a small tmpfs. Needs root.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use agentguard_decision::Recorder;
use agentguard_model::{Bytes, Outcome, ReasonCode};
use agentguard_record::{Notice, Options, Record};

use crate::scene::{allow, deny, everything, generous, index_is_right, sum, until, until_indexed};

/// A small file system, unmounted when this is dropped.
struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    fn mount(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(status.success(), "mounting a tmpfs needs root: {status}");
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Fills it to the last byte.
    fn fill(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [64 * 1024, 4096, 1] {
            let chunk = vec![0; size];
            while file.write_all(&chunk).is_ok() {}
        }
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a thread of the record may still hold a file for a moment.
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

#[tokio::test]
async fn a_full_disk_refuses_loses_nothing_and_recovers_by_itself() {
    let disk = Tmpfs::mount("8m");
    let dir = disk.path().join("record");
    let options = Options {
        segment_bytes: 64 * 1024,
        ..generous()
    };
    let record = Record::open(&dir, options.clone()).unwrap();
    let mut acked = Vec::new();
    for _ in 0..20 {
        acked.push(record.write(allow("a")).await.unwrap());
    }
    // An aggregate that was opened while there was space.
    let mut denials = 0_u64;
    for _ in 0..20 {
        record.write(deny("a", 1)).await.unwrap();
        denials += 1;
    }
    until_indexed(&record).await;
    let filler = disk.fill("filler");

    // The last page of the segment may still have room; then every write is refused.
    let mut refused = 0_u64;
    while refused < 50 {
        match record.write(allow("a")).await {
            Ok(id) => {
                assert_eq!(refused, 0, "the space cannot have come back");
                acked.push(id);
            }
            Err(error) => {
                assert_eq!(error.reason.code, ReasonCode::RecordFailed);
                let message = error.reason.message;
                assert!(message.contains("no space left under"), "{message}");
                assert!(message.contains(&dir.display().to_string()), "{message}");
                refused += 1;
            }
        }
    }
    // Counts need no space.
    for _ in 0..20 {
        record.write(deny("a", 1)).await.unwrap();
        denials += 1;
    }
    let done = Outcome {
        bytes: Bytes {
            sent: 1,
            received: 2,
        },
        messages: None,
        duration_ms: 3,
        status: None,
        llm: None,
        tool: None,
        budget: Vec::new(),
        error: None,
    };
    record.outcome(acked[0], done.clone());
    let status = record.status();
    let degraded = status.degraded.unwrap();
    assert!(degraded.error.contains("no space left"), "{degraded:?}");
    assert_eq!(status.refused, refused);
    let found = everything(&record).await;
    assert_eq!(sum(&found), acked.len() as u64 + denials);

    std::fs::remove_file(filler).unwrap();
    acked.push(record.write(allow("a")).await.unwrap());
    assert_eq!(record.status().degraded, None);
    until("the outcome and the gap are recorded", async || {
        let gaps = record.notices(10).await.unwrap();
        let told = matches!(gaps.as_slice(), [Notice::Gap(gap)]
            if gap.source == "record" && gap.lost == refused
                && gap.message.as_ref().unwrap().contains("no space left"));
        told && record.find(acked[0]).await.unwrap().unwrap().outcome == Some(done.clone())
    })
    .await;
    assert_eq!(record.status().gaps, 1);
    until_indexed(&record).await;
    record.close().await;
    index_is_right(&dir, options.clone()).await;

    let record = Record::open(&dir, options).unwrap();
    for id in &acked {
        assert!(record.find(*id).await.unwrap().is_some());
    }
    assert_eq!(
        sum(&everything(&record).await),
        acked.len() as u64 + denials
    );
    assert_eq!(record.status().damage, []);
    record.close().await;
}

#[tokio::test]
async fn counts_outlive_an_end_on_a_full_disk() {
    let disk = Tmpfs::mount("8m");
    let dir = disk.path().join("record");
    let record = Record::open(&dir, generous()).unwrap();
    for _ in 0..50 {
        record.write(deny("a", 1)).await.unwrap();
    }
    let fillers = [disk.fill("filler-1")];
    // Uses up what room the last page of the segment has.
    while record.write(allow("b")).await.is_ok() {}
    record.close().await;
    let record = Record::open(&dir, generous()).unwrap();
    let denials = |decisions: Vec<agentguard_model::Decision>| -> u64 {
        let denied = decisions
            .iter()
            .filter(|decision| decision.reason.code == ReasonCode::NoRule);
        denied.map(|decision| decision.count).sum()
    };
    assert_eq!(denials(everything(&record).await), 50);
    // The index may have left some room when it was closed.
    let fillers = fillers.into_iter().chain([disk.fill("filler-2")]);
    while record.write(allow("b")).await.is_ok() {}
    assert_eq!(denials(everything(&record).await), 50);
    for filler in fillers {
        std::fs::remove_file(filler).unwrap();
    }
    record.write(allow("b")).await.unwrap();
    record.close().await;
    let record = Record::open(&dir, generous()).unwrap();
    assert_eq!(denials(everything(&record).await), 50);
    record.close().await;
}
