//! The record as other rooms see it, on real directories, with real kills, a real full disk and
//! real damage.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod aggregation;
mod crash;
mod damage;
mod feed;
mod full_disk;
mod queries;
mod scene;
