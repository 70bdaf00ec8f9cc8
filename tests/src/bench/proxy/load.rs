//! The client: `h2load`, which carries the same load over HTTP/1.1 and HTTP/2; or our own, where each request has a
//! connection for itself, or where it is messages on WebSockets.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::posts;

/// Requests that are sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    path: &'static str,
    requests: usize,
    connections: usize,
    client: Client,
    /// How many in a second on each connection; none: as many as go.
    each_second: Option<usize>,
}

/// Who sends them.
#[derive(Clone, Copy, Debug)]
enum Client {
    /// `h2load` over HTTP/1.1.
    Http1,
    /// The same over HTTP/2.
    Http2,
    /// `h2load` over HTTP/1.1, which sends a content with each request.
    Post,
    /// Ours: each has a connection for itself.
    Fresh,
    /// The same, with so many requests on each connection.
    Kept(usize),
    /// Ours: they are messages on WebSockets, as long as what is at the path.
    Echo,
}

/// How a client gets to a site.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    /// Where it connects to in the place of the site.
    pub(super) to: Option<&'a str>,
    /// Whether that is a proxy which it asks with CONNECT.
    pub(super) asks: bool,
    /// Whom it trusts, where it verifies; none where its environment says so.
    pub(super) ca: Option<&'a Path>,
}

/// What a client saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) requests: f64,
    pub(super) requests_per_second: f64,
    pub(super) bytes_per_second: f64,
    /// Of each answer.
    pub(super) bytes: u64,
    /// Microseconds from a request to the end of its answer.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// Of how many connections in a hundred TLS went on from an earlier one, where each request has one.
    pub(super) resumed: Option<f64>,
}

impl Load {
    pub(super) const fn requests(path: &'static str, requests: usize) -> Self {
        Self {
            path,
            requests,
            connections: 1,
            client: Client::Http1,
            each_second: None,
        }
    }

    /// Calls of a language model.
    pub(super) const fn call(requests: usize) -> Self {
        Self {
            client: Client::Post,
            ..Self::requests(posts::PATH, requests)
        }
    }

    /// How many bytes each answer has.
    fn bytes(&self) -> Result<u64> {
        match self.client {
            Client::Post => Ok(posts::BYTES),
            _ => size(self.path),
        }
    }

    pub(super) const fn connections(self, connections: usize) -> Self {
        Self {
            connections,
            ..self
        }
    }

    pub(super) const fn http2(self) -> Self {
        Self {
            client: Client::Http2,
            ..self
        }
    }

    pub(super) const fn fresh(self) -> Self {
        Self {
            client: Client::Fresh,
            ..self
        }
    }

    /// By our own client, with the connections that there are at once and no others.
    pub(super) const fn kept(self) -> Self {
        Self {
            client: Client::Kept(self.requests.div_ceil(self.connections)),
            ..self
        }
    }

    pub(super) const fn echo(self) -> Self {
        Self {
            client: Client::Echo,
            ..self
        }
    }

    pub(super) const fn each_second(self, each_second: usize) -> Self {
        Self {
            each_second: Some(each_second),
            ..self
        }
    }

    /// How many requests or messages, and on how many connections.
    pub(super) const fn counts(&self) -> (usize, usize) {
        (self.requests, self.connections)
    }

    /// A tenth of it.
    pub(super) const fn short(self) -> Self {
        self.part(10)
    }

    /// A third of it.
    pub(super) const fn third(self) -> Self {
        self.part(3)
    }

    /// With a part of the requests, and one for each connection at least.
    const fn part(self, of: usize) -> Self {
        let least = match self.connections {
            0 => 1,
            connections => connections,
        };
        let requests = match self.requests / of {
            few if few < least => least,
            few => few,
        };
        Self { requests, ..self }
    }

    /// The client's command line.
    pub(super) fn words(&self, site: &str, way: Way<'_>, log: &Path) -> Result<Vec<String>> {
        match self.client {
            Client::Fresh | Client::Kept(_) | Client::Echo => return self.own_words(site, way),
            Client::Http1 | Client::Http2 | Client::Post => {}
        }
        let mut words = vec!["h2load".to_owned(), "-t1".to_owned()];
        words.push(format!("-n{}", self.requests));
        words.push(format!("-c{}", self.connections));
        words.push(format!("--log-file={}", log.display()));
        if matches!(self.client, Client::Http1 | Client::Post) {
            words.push("--h1".to_owned());
        }
        if matches!(self.client, Client::Post) {
            let directory = log.parent().context("no directory")?;
            words.push(format!("--data={}", posts::file(directory).display()));
            words.push("--header=content-type: application/json".to_owned());
        }
        if let Some(each_second) = self.each_second {
            words.push(format!("--rps={each_second}"));
        }
        ensure!(!way.asks, "this client asks no proxy");
        if let Some(to) = way.to {
            words.push(format!("--connect-to={to}"));
        }
        words.push(format!("https://{site}{}", self.path));
        Ok(words)
    }

    fn own_words(&self, site: &str, way: Way<'_>) -> Result<Vec<String>> {
        let own = std::env::current_exe()?.display().to_string();
        let bytes = size(self.path)?.to_string();
        let (task, what) = match self.client {
            Client::Echo => ("bench-echo", bytes.as_str()),
            _ => ("bench-fresh", self.path),
        };
        let mut words = [&own, task, site, what].map(str::to_owned).to_vec();
        words.extend([self.requests.to_string(), self.connections.to_string()]);
        if let Client::Kept(each) = self.client {
            words.push(format!("--each={each}"));
        }
        if let Some(ca) = way.ca {
            words.extend(["--ca".to_owned(), ca.display().to_string()]);
        }
        if let Some(to) = way.to {
            let option = match way.asks {
                true => "--proxy",
                false => "--to",
            };
            words.extend([option, to].map(str::to_owned));
        }
        Ok(words)
    }

    /// What the client printed, and wrote of each request.
    pub(super) fn measured(&self, printed: &str, log: &Path) -> Result<Measured> {
        match self.client {
            Client::Fresh | Client::Kept(_) | Client::Echo => return self.own_measured(printed),
            Client::Http1 | Client::Http2 | Client::Post => {}
        }
        let requests = self.requests;
        let all = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
        ensure!(printed.contains(&all), "not all were answered: {printed}");
        let status = format!("status codes: {requests} 2xx");
        ensure!(printed.contains(&status), "not all went well: {printed}");
        // It takes what it is offered.
        let spoken = match self.client {
            Client::Http2 => "Application protocol: h2\n",
            _ => "Application protocol: http/1.1\n",
        };
        ensure!(printed.contains(spoken), "not `{spoken}`: {printed}");
        let text = fs::read_to_string(log).context("no log of the client's")?;
        fs::remove_file(log)?;
        let mut times = Vec::with_capacity(requests);
        let (mut first, mut last) = (f64::MAX, 0.0_f64);
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [begin, _, took, ..] = fields.as_slice() else {
                anyhow::bail!("a line of the client's: {line}");
            };
            let (begin, took) = (begin.parse::<f64>()?, took.parse::<f64>()?);
            first = first.min(begin);
            last = last.max(begin + took);
            times.push(took);
        }
        ensure!(times.len() == requests, "{} answers", times.len());
        times.sort_by(f64::total_cmp);
        let part = |part: usize| times.get(times.len() * part / 100).copied();
        let seconds = (last - first) / 1e6;
        let bytes = self.bytes()?;
        Ok(Measured {
            requests: requests as f64,
            requests_per_second: requests as f64 / seconds,
            bytes_per_second: (bytes * requests as u64) as f64 / seconds,
            bytes,
            p50: part(50).context("no times")?,
            p99: part(99).context("no times")?,
            resumed: None,
        })
    }
}

impl Load {
    fn own_measured(&self, printed: &str) -> Result<Measured> {
        let told: Value = serde_json::from_str(printed.trim())?;
        let figure = |name: &str| {
            let figure = told.get(name).and_then(Value::as_f64);
            figure.with_context(|| format!("no `{name}` in {told}"))
        };
        let requests = figure("requests")?;
        ensure!(requests == self.requests as f64, "not all: {told}");
        let (seconds, bytes) = (figure("seconds")?, size(self.path)?);
        let resumed = match self.client {
            Client::Fresh => Some(100.0 * figure("resumed")? / requests),
            _ => None,
        };
        Ok(Measured {
            requests,
            requests_per_second: requests / seconds,
            bytes_per_second: bytes as f64 * requests / seconds,
            bytes,
            p50: figure("p50")?,
            p99: figure("p99")?,
            resumed,
        })
    }
}

/// How many bytes are at a path of the origin's.
pub(super) fn size(path: &str) -> Result<u64> {
    let name = path.trim_start_matches('/');
    let (number, unit) = name.split_at(name.len().saturating_sub(1));
    let unit = match unit {
        "k" => 1_000,
        "m" => 1_000_000,
        other => anyhow::bail!("no size: {other}"),
    };
    Ok(number.parse::<u64>()? * unit)
}
