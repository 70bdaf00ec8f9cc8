//! A client with many connections, which does one thing after the other, as it is told: a line for each order, and a line
//! of JSON for each answer ([`crate::Puppet`]).
//!
//! | order | what it does |
//! | --- | --- |
//! | `open N` | opens so many connections more, some at once |
//! | `flat S` | sends on all of them one request after the other, for so many seconds |
//! | `pace N S` | sends on each so many requests a second, for so many seconds; one that is late waits for no other |
//! | `dial N S` | opens so many connections, one after the other, each for one request, spread over so many seconds |
//! | `end` | ends |

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::client::TlsStream;

use crate::bench::reach::{Reach, To};

/// Connections that are opened at once.
const AT_ONCE: usize = 64;

/// How long an answer, or a connection, may take.
const LIMIT: Duration = Duration::from_secs(15);

/// How long it waits for an order. So it ends by itself where who gives them is killed.
const ORDER: Duration = Duration::from_secs(120);

/// Whom it asks.
#[derive(Clone, Debug, Args)]
pub struct Asked {
    #[command(flatten)]
    to: To,
    /// The path there
    path: String,
    /// The file that orders come from
    orders: PathBuf,
}

/// Does what it is told.
///
/// # Errors
/// An order makes no sense, or there is none for long. That requests fail is in the answers.
pub fn client(asked: &Asked) -> Result<()> {
    let files = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: files.maximum,
        ..files
    };
    setrlimit(Resource::Nofile, most)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(obey(asked))
}

async fn obey(asked: &Asked) -> Result<()> {
    let mut client = Client {
        site: Arc::new(Site::of(asked).await?),
        connections: Vec::new(),
    };
    let orders = pipe::OpenOptions::new().open_receiver(&asked.orders)?;
    let mut orders = BufReader::new(orders).lines();
    while let Some(order) = timeout(ORDER, orders.next_line()).await?? {
        if order == "end" {
            break;
        }
        let answer = client.obey(&order).await.with_context(|| order.clone());
        println!("{}", answer?);
    }
    Ok(())
}

/// Where requests go.
struct Site {
    reach: Reach,
    request: String,
}

impl Site {
    async fn of(asked: &Asked) -> Result<Self> {
        Ok(Self {
            reach: asked.to.reach().await?,
            request: format!(
                "GET {} HTTP/1.1\r\nHost: {}\r\n\r\n",
                asked.path, asked.to.site
            ),
        })
    }

    async fn open(&self) -> Result<Connection> {
        let opened = timeout(LIMIT, self.reach.connect()).await;
        let stream = opened.context("no connection")??;
        Ok(Connection { stream })
    }
}

struct Connection {
    stream: TlsStream<TcpStream>,
}

impl Connection {
    async fn ask(&mut self, request: &str) -> Result<()> {
        let asked = async {
            self.stream.write_all(request.as_bytes()).await?;
            self.answered().await
        };
        timeout(LIMIT, asked).await.context("no answer")?
    }

    /// Reads an answer to its end.
    async fn answered(&mut self) -> Result<()> {
        let mut answer = Vec::with_capacity(2_048);
        let mut whole = None;
        while whole.is_none_or(|whole| answer.len() < whole) {
            let more = self.stream.read_buf(&mut answer).await?;
            ensure!(more > 0, "it ends in the middle");
            if whole.is_none() {
                whole = length(&answer)?;
            }
        }
        ensure!(whole == Some(answer.len()), "more than was asked for");
        Ok(())
    }
}

/// How long an answer is with its head, once that is there.
fn length(answer: &[u8]) -> Result<Option<usize>> {
    let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(answer.get(..head).unwrap_or_default());
    ensure!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = length.context("no length")?;
    Ok(Some(head + 4 + length.trim().parse::<usize>()?))
}

/// What came of requests.
#[derive(Default)]
struct Came {
    /// Microseconds that each took that was answered.
    times: Vec<f64>,
    errors: usize,
    /// What the first said that was not.
    error: Option<String>,
}

impl Came {
    fn note(&mut self, took: Result<Duration>) {
        match took {
            Ok(took) => self.times.push(took.as_secs_f64() * 1e6),
            Err(error) => {
                self.errors += 1;
                self.error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    fn and(&mut self, other: Self) {
        self.times.extend(other.times);
        self.errors += other.errors;
        self.error = self.error.take().or(other.error);
    }

    fn told(mut self, open: usize, seconds: f64) -> Value {
        self.times.sort_by(f64::total_cmp);
        let part = |part: usize| self.times.get(self.times.len() * part / 100);
        json!({
            "requests": self.times.len(),
            "errors": self.errors,
            "error": self.error,
            "seconds": seconds,
            "p50": part(50),
            "p99": part(99),
            "open": open,
        })
    }
}

/// How requests follow each other.
#[derive(Clone, Copy)]
enum Rhythm {
    Flat,
    /// So long from one to the next.
    Pace(Duration),
}

struct Client {
    site: Arc<Site>,
    connections: Vec<Connection>,
}

impl Client {
    async fn obey(&mut self, order: &str) -> Result<Value> {
        let words: Vec<&str> = order.split_whitespace().collect();
        let began = Instant::now();
        let came = match words.as_slice() {
            ["open", count] => self.open(count.parse()?).await?,
            ["flat", seconds] => {
                let until = began + Duration::from_secs_f64(seconds.parse()?);
                self.send(Rhythm::Flat, until).await?
            }
            ["pace", each_second, seconds] => {
                let until = began + Duration::from_secs_f64(seconds.parse()?);
                let apart = Duration::from_secs_f64(1.0 / each_second.parse::<f64>()?);
                self.send(Rhythm::Pace(apart), until).await?
            }
            ["dial", count, seconds] => {
                let (count, seconds) = (count.parse()?, seconds.parse()?);
                self.dial(count, Duration::from_secs_f64(seconds)).await
            }
            _ => bail!("no such order"),
        };
        let seconds = began.elapsed().as_secs_f64();
        Ok(came.told(self.connections.len(), seconds))
    }

    async fn open(&mut self, count: usize) -> Result<Came> {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut opening = JoinSet::new();
        for _ in 0..count {
            let (site, places) = (self.site.clone(), places.clone());
            opening.spawn(async move {
                let _place = places.acquire().await?;
                let began = Instant::now();
                let connection = site.open().await?;
                anyhow::Ok((connection, began.elapsed()))
            });
        }
        let mut came = Came::default();
        while let Some(opened) = opening.join_next().await {
            match opened? {
                Ok((connection, took)) => {
                    self.connections.push(connection);
                    came.note(Ok(took));
                }
                Err(error) => came.note(Err(error)),
            }
        }
        Ok(came)
    }

    /// Sends on all connections. One on which a request fails is closed.
    async fn send(&mut self, rhythm: Rhythm, until: Instant) -> Result<Came> {
        let mut sending = JoinSet::new();
        for mut connection in self.connections.drain(..) {
            let site = self.site.clone();
            sending.spawn(async move {
                let mut came = Came::default();
                let mut due = Instant::now();
                while due < until {
                    let sent = Instant::now();
                    let asked = connection.ask(&site.request).await;
                    let lost = asked.is_err();
                    came.note(asked.map(|()| sent.elapsed()));
                    if lost {
                        return (None, came);
                    }
                    // What was not sent in its time is not sent later.
                    let now = Instant::now();
                    due = match rhythm {
                        Rhythm::Flat => now,
                        Rhythm::Pace(apart) => now.max(due + apart),
                    };
                    if due > now {
                        sleep_until(due.into()).await;
                    }
                }
                (Some(connection), came)
            });
        }
        let mut came = Came::default();
        while let Some(sent) = sending.join_next().await {
            let (connection, of_one) = sent?;
            self.connections.extend(connection);
            came.and(of_one);
        }
        Ok(came)
    }

    async fn dial(&self, count: u32, during: Duration) -> Came {
        let mut came = Came::default();
        let mut due = Instant::now();
        for _ in 0..count {
            if due > Instant::now() {
                sleep_until(due.into()).await;
            }
            due += during / count;
            let began = Instant::now();
            let asked = async { self.site.open().await?.ask(&self.site.request).await };
            came.note(asked.await.map(|()| began.elapsed()));
        }
        came
    }
}
