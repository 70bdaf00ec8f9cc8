//! What the guard costs: the same client with and without it, in turns.
//!
//! Each sample is one line of JSON on standard output: `case`, `subject`, `metric`, `unit`, `value`.
//! `cargo xtask bench` makes figures with ratios of them.

mod dns;
mod gate;
mod inspection;
mod proxy;
mod reach;
mod run;
mod scale;
mod simulate;
mod soak;
mod sse;
mod start;
mod taken;

pub use dns::dns;
pub use gate::gate;
pub use inspection::inspection;
pub use proxy::{Echo, Echoes, Fresh, Idle, Which, echo, echoes, fresh, idle, proxy};
pub use run::run;
pub use scale::{Asked, Cases, client, scale};
pub use simulate::simulate;
pub use soak::{Soak, soak};
pub use sse::sse;
pub use start::start;

use serde_json::json;

fn sample(case: &str, subject: &str, metric: &str, unit: &str, value: f64) {
    let line = json!({
        "case": case, "subject": subject, "metric": metric, "unit": unit, "value": value,
    });
    println!("{line}");
}
