//! What the agents of a storm call, and what it may cost.

use agentguard_model::budget::Unit;
use serde_json::{Value, json};

use super::terms::{AGENTS, ANTHROPIC, LEVELS, MODELS, MOST, Model, TENANTS, agent, tenant};

/// How many calls each makes at once in each wave, beside a small one, which is over before anything happens to it.
const AT_ONCE: [usize; 3] = [28, 15, 0];

/// How many are under way at once in the first wave before any of them goes on, however busy a machine is.
pub(crate) const GATHERED: usize = 300;

/// How many tokens the guard may take a text for beyond a token for each byte.
const AROUND: u64 = 4096;

/// A small generator of numbers (`SplitMix64`): the same seed makes the same storm.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `from` to below `to`.
    pub(crate) fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        let count = u64::try_from(all.len()).unwrap();
        all[usize::try_from(self.within(0, count)).unwrap()]
    }
}

/// What becomes of a call at its provider.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Done,
    Silent,
    Error,
    Reset,
    Short,
    Refused(u16),
}

/// One call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) agent: usize,
    pub(crate) wave: usize,
    pub(crate) model: &'static Model,
    /// The most that it may write, as it says.
    pub(crate) limit: Option<u64>,
    words: u64,
    hidden: u64,
    per: u64,
    pace: f64,
    fate: Fate,
    at: u64,
    /// Behind how many words its provider tells that it has written them.
    tell: Option<u64>,
    /// How many like it are under way before its provider writes.
    gather: usize,
    leave: Option<u64>,
    padding: usize,
}

/// An account that a call is charged to.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Account {
    /// As the command line calls it.
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) limit: u64,
}

impl Call {
    fn new(random: &mut Random, number: u64, agent: usize, wave: usize) -> Self {
        let model = &MODELS[usize::try_from(random.within(0, 4)).unwrap()];
        let words = match random.within(0, 5) {
            0..2 => random.within(5, 150),
            _ => random.within(150, 700),
        };
        let hidden = if model.hidden {
            random.within(0, 300)
        } else {
            0
        };
        let wanted = words + hidden;
        // As much as it needs, less, or far more; what reasons has all of it reserved.
        let limit = match random.within(0, 10) {
            0 => Some((wanted * 3 / 4).max(16)),
            1..6 => Some(wanted + random.within(16, 300)),
            _ if model.hidden => Some(wanted + 500),
            6..8 => Some(MOST),
            // Anthropic's have to say one.
            _ => (model.host == ANTHROPIC).then_some(64_000),
        };
        let per = random.within(16, 64);
        let events = words / per + 1;
        // Up to 120 tokens a second, and some seconds long: those that are together longer.
        let takes = match wave {
            0 => random.within(4_000, 12_000),
            _ => random.within(2_000, 6_000),
        };
        let takes = takes.max(words * 1_000 / 120);
        let at = random.within(0, events);
        let fate = match random.within(0, 100) {
            0..6 => Fate::Silent,
            6..12 => Fate::Error,
            12..18 => Fate::Reset,
            18..22 => Fate::Short,
            22..30 => Fate::Refused(random.of(&[500, 429, 503])),
            _ => Fate::Done,
        };
        let leave = (random.within(0, 100) < 12).then(|| random.within(1, words));
        Self {
            number,
            agent,
            wave,
            model,
            limit,
            words,
            hidden,
            per,
            pace: f64::from(u32::try_from(takes / events).unwrap()) / 1e3,
            fate,
            at,
            tell: None,
            gather: if wave == 0 { GATHERED } else { 0 },
            leave,
            padding: usize::try_from(random.within(0, 3_000)).unwrap(),
        }
    }

    /// One that needs little.
    fn small(number: u64, agent: usize, wave: usize) -> Self {
        Self {
            number,
            agent,
            wave,
            model: &MODELS[agent % MODELS.len()],
            limit: Some(64),
            words: 20,
            hidden: 0,
            per: 10,
            pace: 0.01,
            fate: Fate::Done,
            at: 0,
            tell: None,
            gather: 0,
            leave: None,
            padding: 0,
        }
    }

    /// One that goes on for long, and has one part of its limit reserved at first.
    pub(crate) fn slow(number: u64) -> Self {
        Self {
            limit: Some(4_000),
            words: 2_000,
            per: 1,
            pace: 0.5,
            ..Self::small(number, 0, 0)
        }
    }

    /// One that needs most of what an agent has of a model, and more than its half: of two, each waits for the other.
    /// Its provider tells when it has written far more than that half.
    pub(crate) fn greedy(number: u64) -> Self {
        Self {
            model: &MODELS[0],
            limit: Some(1_400),
            words: 1_400,
            per: 16,
            pace: 0.05,
            tell: Some(1_100),
            // Each would have most of what they share for itself otherwise.
            gather: 2,
            ..Self::small(number, AGENTS / 2, 0)
        }
    }

    /// One of which far more is written than is ever reserved at a time, and its provider tells of that.
    pub(crate) fn hasty(number: u64) -> Self {
        Self {
            limit: Some(6_000),
            words: 6_000,
            per: 32,
            pace: 0.02,
            tell: Some(2_800),
            ..Self::small(number, 0, 0)
        }
    }

    /// For the program that makes it.
    fn planned(&self) -> Value {
        let fate = match self.fate {
            Fate::Refused(status) => json!(status),
            other => json!(format!("{other:?}").to_lowercase()),
        };
        let mut prompt = json!({
            "call": self.number, "words": self.words, "hidden": self.hidden, "per": self.per, "pace": self.pace,
            "fate": fate, "at": self.at, "input": self.padding / 4 + 50, "gather": self.gather,
        });
        if let Some(tell) = self.tell {
            prompt["tell"] = json!(tell);
        }
        let mut prompt = prompt.to_string();
        prompt.extend(std::iter::repeat_n(' ', self.padding));
        let mut body = json!({ "model": self.model.name, "stream": true });
        match self.model.path {
            "/v1/responses" => body["input"] = json!(prompt),
            _ => body["messages"] = json!([{ "role": "user", "content": prompt }]),
        }
        if self.model.path == "/v1/chat/completions" {
            body["stream_options"] = json!({ "include_usage": true });
        }
        if let Some(limit) = self.limit {
            body[self.model.limit] = json!(limit);
        }
        json!({
            "call": self.number, "host": self.model.host, "path": self.model.path, "body": body, "leave": self.leave,
        })
    }

    /// All that it is charged to.
    pub(crate) fn accounts(&self) -> Vec<Account> {
        let tenant = tenant(self.agent);
        let accounts = LEVELS.iter().map(|level| {
            let scope = level.per.split(", ").map(|it| match it {
                "agent" => format!("agent={}", agent(self.agent)),
                "model" => format!("model={}", self.model.name),
                _ => format!("label.tenant={}", TENANTS[tenant]),
            });
            let scope: Vec<_> = scope.collect();
            let name = TENANTS[tenant];
            Account {
                name: format!("{name}-{}/{}", level.name, scope.join(",")),
                unit: level.unit,
                limit: level.limits[tenant],
            }
        });
        accounts.collect()
    }

    /// What an account is charged with for so many tokens.
    pub(crate) fn amount(&self, unit: Unit, input: u64, output: u64) -> u64 {
        match unit {
            Unit::MicroUsd => input * self.model.input + output * self.model.output,
            Unit::OutputTokens => output,
            Unit::Calls => 1,
            _ => 0,
        }
    }

    /// The most that may be reserved of an account, where its limit was lowered to this.
    pub(crate) fn bound(&self, unit: Unit, clamped: Option<u64>) -> u64 {
        let bytes = u64::try_from(self.planned()["body"].to_string().len()).unwrap();
        let limit = self.limit.unwrap_or(MOST);
        let limit = clamped.map_or(limit, |clamped| clamped.min(limit));
        self.amount(unit, bytes + AROUND, limit)
    }
}

/// Two storms with small calls in them, and small calls behind them.
pub(crate) fn calls(random: &mut Random) -> Vec<Call> {
    let mut calls = Vec::new();
    for (wave, at_once) in AT_ONCE.into_iter().enumerate() {
        for agent in 0..AGENTS {
            for which in 0..=at_once {
                let number = u64::try_from(calls.len()).unwrap() + 1;
                calls.push(match which {
                    0 => Call::small(number, agent, wave),
                    _ => Call::new(random, number, agent, wave),
                });
            }
        }
    }
    calls
}

/// What one agent is to do.
pub(crate) fn planned(calls: &[Call], agent: usize) -> String {
    let waves = [0, 1, 2].map(|wave| {
        let its = calls
            .iter()
            .filter(|it| it.agent == agent && it.wave == wave);
        its.map(Call::planned).collect::<Vec<_>>()
    });
    json!(waves).to_string()
}
