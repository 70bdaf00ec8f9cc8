//! Bytes that went bad, files that went missing, an index that cannot be used.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agentguard_decision::Recorder;
use agentguard_model::contents::{Content, Contents, Kept};
use agentguard_record::{NoteKind, Notice, Options, Record};

use crate::scene::{
    allow, deny, everything, generous, index_is_right, indexed, newest, open, until, until_indexed,
    write_allows,
};

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = dir
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    found.sort();
    found
}

fn small() -> Options {
    Options {
        segment_bytes: 4096,
        ..generous()
    }
}

/// Changes a byte in the middle of a file. One, since more could belong to two entries.
fn spoil(path: &Path) -> u64 {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[!byte[0]], middle).unwrap();
    middle
}

#[tokio::test]
async fn damage_in_the_middle_is_told_and_the_rest_is_read() {
    for (which, delete_index) in [(0, true), (0, false), (2, true), (usize::MAX, true)] {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::open(dir.path(), small()).unwrap();
        let mut ids = write_allows(&record, "a", 60).await;
        // Damage in the only entry of the last segment would be its end, which is cut off.
        while segments(dir.path())
            .last()
            .unwrap()
            .metadata()
            .unwrap()
            .len()
            < 2_000
        {
            ids.extend(write_allows(&record, "a", 1).await);
        }
        until_indexed(&record).await;
        record.close().await;
        let files = segments(dir.path());
        assert!(files.len() > 4);
        let path = &files[which.min(files.len() - 1)];
        let middle = spoil(path);
        if delete_index {
            std::fs::remove_file(dir.path().join("index.redb")).unwrap();
        }

        let record = Record::open(dir.path(), small()).unwrap();
        let found = everything(&record).await;
        let others = ids.len() - 1;
        assert_eq!(
            found.len(),
            others,
            "one entry is damaged, the others are read"
        );
        until("the damage is in the status", async || {
            record.status().damage.len() == 1
        })
        .await;
        let damage = record.status().damage.remove(0);
        assert_eq!(Path::new(&damage.file), path);
        assert!(damage.offset <= middle && middle - damage.offset < 1000);
        assert!(damage.message.contains("Restore"), "{}", damage.message);
        let new = write_allows(&record, "a", 2).await;
        until("the damage is in the record", async || {
            let notices = record.notices(10).await.unwrap();
            matches!(notices.as_slice(), [Notice::Gap(gap)]
                if gap.source == "record" && gap.message.as_ref().unwrap().contains(&damage.file))
        })
        .await;
        until_indexed(&record).await;
        record.close().await;

        // It stays told, once, and the log goes on.
        let record = Record::open(dir.path(), small()).unwrap();
        assert_eq!(everything(&record).await.len(), others + new.len());
        until("the damage is in the status again", async || {
            record.status().damage.len() == 1
        })
        .await;
        assert_eq!(record.notices(10).await.unwrap().len(), 1);
        let lost = ids.iter().chain(&new);
        let mut missing = 0;
        for id in lost {
            missing += usize::from(record.find(*id).await.unwrap().is_none());
        }
        assert_eq!(missing, 1);
    }
}

#[tokio::test]
async fn a_segment_that_went_missing_is_told_with_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let record = Record::open(dir.path(), small()).unwrap();
    write_allows(&record, "a", 60).await;
    record.close().await;
    let files = segments(dir.path());
    std::fs::remove_file(&files[1]).unwrap();
    std::fs::remove_file(dir.path().join("index.redb")).unwrap();
    let record = Record::open(dir.path(), small()).unwrap();
    until_indexed(&record).await;
    let damage = record.status().damage;
    assert_eq!(damage.len(), 1);
    let lost = damage[0].lost.unwrap();
    assert!(lost > 1);
    assert_eq!(everything(&record).await.len() as u64, 60 - lost);
}

#[tokio::test]
async fn an_index_that_is_missing_broken_or_of_another_log_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index.redb");
    let record = open(dir.path());
    let ids = write_allows(&record, "a", 300).await;
    until_indexed(&record).await;
    record.close().await;
    let good = std::fs::read(&index).unwrap();

    let other = tempfile::tempdir().unwrap();
    let record = open(other.path());
    write_allows(&record, "b", 300).await;
    until_indexed(&record).await;
    record.close().await;
    let foreign = std::fs::read(other.path().join("index.redb")).unwrap();

    let mut spoiled = good.clone();
    let half = spoiled.len() / 2;
    spoiled[4096..half].fill(0xa5);
    for (what, bytes) in [
        ("missing", None),
        ("empty", Some(Vec::new())),
        ("junk", Some(vec![7; 10_000])),
        ("cut", Some(good[..good.len() / 2].to_vec())),
        ("spoiled", Some(spoiled)),
        ("foreign", Some(foreign)),
        ("good", Some(good)),
    ] {
        match bytes {
            None => std::fs::remove_file(&index).unwrap(),
            Some(bytes) => std::fs::write(&index, bytes).unwrap(),
        }
        let record = open(dir.path());
        let found = everything(&record).await;
        let found: Vec<_> = found.iter().map(|decision| decision.id).collect();
        assert_eq!(found.len(), 300, "{what}");
        until_indexed(&record).await;
        for id in ids.iter().step_by(50) {
            assert!(record.find(*id).await.unwrap().is_some(), "{what}");
        }
        assert_eq!(everything(&record).await.len(), 300, "{what}");
        assert_eq!(record.status().damage, [], "{what}");
        record.close().await;
    }
}

#[tokio::test]
async fn segments_rotate_and_the_oldest_are_deleted_with_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        max_bytes: Some(20_000),
        ..small()
    };
    let record = Record::open(dir.path(), options.clone()).unwrap();
    let ids = write_allows(&record, "a", 200).await;
    // The last note may be on its way.
    let mut status = record.status();
    until("what is on the disk to be told", async || {
        status = record.status();
        let segments = segments(dir.path());
        let sizes = segments.iter().map(|path| path.metadata().unwrap().len());
        sizes.sum::<u64>() == status.bytes
    })
    .await;
    assert!(status.segments > 2, "{status:?}");
    assert!(status.bytes <= 20_000, "{status:?}");
    until_indexed(&record).await;
    let kept = everything(&record).await;
    assert!(!kept.is_empty() && kept.len() < 200);
    let newest: Vec<_> = kept.iter().map(|decision| decision.id).collect();
    assert_eq!(newest, ids[200 - kept.len()..]);
    assert_eq!(record.find(ids[0]).await.unwrap(), None);
    let notices = record.notices(100).await.unwrap();
    assert!(notices.iter().all(|notice| {
        matches!(notice, Notice::Note(note) if note.kind == NoteKind::Retention)
    }));
    assert!(!notices.is_empty());
    assert_eq!(record.status().damage, []);
    record.close().await;
    let record = Record::open(dir.path(), options).unwrap();
    assert_eq!(everything(&record).await.len(), kept.len());
    assert_eq!(record.status().damage, []);
}

/// Whoever writes says what the index needs; where that is made anew, it is read from the log.
#[tokio::test]
async fn the_index_is_the_same_by_what_was_written_and_by_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let record = Record::open(dir.path(), small()).unwrap();
    let outcome = || {
        let text = r#"{"bytes":{"sent":1,"received":2},"duration_ms":3}"#;
        serde_json::from_str(text).unwrap()
    };
    for agent in ["a", "b"] {
        for id in write_allows(&record, agent, 100).await {
            record.outcome(id, outcome());
        }
        for port in 1..20 {
            record.write(deny(agent, port)).await.unwrap();
            record.write(deny(agent, port)).await.unwrap();
        }
        // Of some the index knows before the others are written.
        until_indexed(&record).await;
    }
    record.close().await;
    assert!(segments(dir.path()).len() > 10);
    assert!(indexed(dir.path()).len() > 600);
    index_is_right(dir.path(), small()).await;
}

/// While it is written to: what was acknowledged and cannot be read is damage, whichever segment it was in.
#[tokio::test]
async fn a_segment_that_somebody_deletes_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let record = open(dir.path());
    let ids = write_allows(&record, "a", 3).await;
    until_indexed(&record).await;
    std::fs::remove_file(&segments(dir.path())[0]).unwrap();
    assert_eq!(record.find(ids[0]).await.unwrap(), None);
    let damage = record.status().damage;
    assert!(
        matches!(damage.as_slice(), [damage] if damage.message.contains("the file is gone")),
        "{damage:?}"
    );
    record.close().await;
}

#[tokio::test]
async fn only_the_owner_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("state/record");
    let record = open(&dir);
    let id = record.write(allow("a")).await.unwrap();
    until_indexed(&record).await;
    let content = Content {
        kept: Kept::Text("hello".to_owned()),
        size: 5,
        cut: false,
    };
    let contents = Contents {
        request: Some(content),
        response: None,
    };
    let coder = "coder".parse().unwrap();
    Recorder::contents(&record, id, &coder, contents.clone());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(record.query(newest(5)).await.unwrap().len(), 1);
    record.close().await;
    let kept = record.contents(id, &coder).await.unwrap();
    assert_eq!(kept, Some(contents));
    let beside = dir.join("contents");
    assert_eq!(mode(&beside), 0o700);
    let mut files = 0;
    for dir in [&dir, &beside] {
        for entry in dir.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path != beside {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                files += 1;
            }
        }
    }
    assert_eq!(files, 5);
}
