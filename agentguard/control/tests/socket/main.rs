//! The control socket from end to end, with a real record and a real policy, in one process.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod answers;
mod asking;
mod budgets;
mod following;
mod members;
mod pins;
mod world;
