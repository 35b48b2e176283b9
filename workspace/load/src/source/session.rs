//! One session of the source: connects, sends job after job, and repeats what can be repeated.

use std::collections::VecDeque;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

use super::connection::{Connection, ConnectionError, Reply};
use super::{Job, Pipelining, Protocol, Shared, Tls};
use crate::now_ns;

/// Runs one session until no message is left to begin or to repeat.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut session = Session { shared: &shared, line: None, waiting: VecDeque::new(), ahead: None };
    loop {
        if let Some(job) = session.ahead.take() {
            session.attempt(job, Envelope::Sent).await;
        } else if let Some(job) = session.take_job().await {
            session.attempt(job, Envelope::Unsent).await;
        } else {
            break;
        }
    }
    if let Some(line) = session.line {
        line.close().await;
    }
}

/// Whether MAIL, RCPT and DATA of a job went out behind the content of the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Envelope {
    Sent,
    Unsent,
}

struct Session<'a> {
    shared: &'a Shared,
    line: Option<Line>,
    /// To be tried again, in the order of their moment.
    waiting: VecDeque<Job>,
    /// Its envelope is on the wire of `line`.
    ahead: Option<Job>,
}

/// A connection that has been greeted, and what its server offers.
struct Line {
    connection: Connection,
    pipelining: Pipelining,
    prioritized: bool,
    messages_count: u64,
}

/// The answer to an envelope.
struct Answer {
    taken: Vec<String>,
    refused: Vec<(String, Reply)>,
    /// Reply to DATA, when it was sent.
    data: Option<Reply>,
}

impl Session<'_> {
    /// What to do next: what is due again, then what is new, then what will be due.
    async fn take_job(&mut self) -> Option<Job> {
        let due = self.waiting.front().is_some_and(|job| job.due <= Instant::now());
        let job = if due { self.waiting.pop_front() } else { self.shared.next_job() };
        let job = job.or_else(|| self.waiting.pop_front())?;
        sleep_until(job.due).await;
        Some(job)
    }

    async fn attempt(&mut self, mut job: Job, envelope: Envelope) {
        job.attempts_count += 1;
        job.begun.get_or_insert_with(Instant::now);
        if job.attempts_count > 1 {
            self.shared.log(|log| log.report.retries_count += 1);
        }
        let last = match self.transfer(&mut job, envelope).await {
            Ok(last) => last,
            Err(error) => {
                self.shared.trouble(error.to_string());
                // It was never more than an envelope: as if it had not begun.
                self.waiting.extend(self.ahead.take());
                match error {
                    ConnectionError::Unwilling(reply) => Some(reply),
                    error => Some(Reply { code: 0, text: error.to_string() }),
                }
            }
        };
        if let (Some(reply), false) = (last, job.recipients.is_empty()) {
            self.repeat(job, &reply);
        }
    }

    /// Sends one message. What is left in `job.recipients` afterwards has no final reply; the last such reply is returned.
    ///
    /// On an error the line is gone.
    async fn transfer(
        &mut self,
        job: &mut Job,
        envelope: Envelope,
    ) -> Result<Option<Reply>, ConnectionError> {
        let mut line = match envelope {
            Envelope::Sent => self.line.take().ok_or(ConnectionError::Closed)?,
            Envelope::Unsent => self.ready().await?,
        };
        line.messages_count += 1;
        let answer = line.envelope(job, &self.shared.options.sender, envelope).await?;
        let mut last = None;
        for (recipient, reply) in &answer.refused {
            last = self.settle(job, recipient, reply).or(last);
        }
        let go = answer.data.as_ref().is_some_and(|reply| reply.code == 354);
        match &answer.data {
            Some(_) if go && !answer.taken.is_empty() => {
                last = self.content(&mut line, job, &answer.taken).await?.or(last);
            }
            Some(reply) if !go => {
                for recipient in &answer.taken {
                    last = self.settle(job, recipient, reply).or(last);
                }
                line.forget().await?;
            }
            Some(_) => {
                // 354 without a recipient: the content is one dot, the reply must be an error (RFC 2920, 3.1).
                line.connection.put(b".\r\n");
                line.connection.reply().await?;
                line.forget().await?;
            }
            None => line.forget().await?,
        }
        self.line = Some(line);
        Ok(last)
    }

    async fn content(
        &mut self,
        line: &mut Line,
        job: &mut Job,
        taken: &[String],
    ) -> Result<Option<Reply>, ConnectionError> {
        let options = &self.shared.options;
        let composer = &self.shared.composer;
        let composed = composer.compose(&job.id, job.octets, &options.sender, &taken[0], now_ns());
        line.connection.put(&composed.wire);
        if line.pipelining == Pipelining::Chain && !self.is_full(line) {
            self.ahead = self.next_at_once();
            if let Some(ahead) = &self.ahead {
                line.put_envelope(ahead, &options.sender);
            }
        }
        let mut last = None;
        match options.protocol {
            Protocol::Smtp => {
                let reply = line.connection.reply().await?;
                last = self.conclude(job, taken, &reply, composed.sent_ns);
            }
            Protocol::Lmtp => {
                for recipient in taken {
                    let reply = line.connection.reply().await?;
                    let one = std::slice::from_ref(recipient);
                    last = self.conclude(job, one, &reply, composed.sent_ns).or(last);
                }
            }
        }
        Ok(last)
    }

    /// The reply after content, for some recipients of the message.
    fn conclude(&self, job: &mut Job, recipients: &[String], reply: &Reply, sent_ns: u64) -> Option<Reply> {
        if reply.accepts() {
            job.recipients.retain(|recipient| !recipients.contains(recipient));
            self.shared.accept(job, recipients.to_vec(), sent_ns, now_ns());
            return None;
        }
        recipients.iter().fold(None, |last, recipient| self.settle(job, recipient, reply).or(last))
    }

    /// A recipient that was refused: final, or (then the reply comes back) to be repeated.
    fn settle(&self, job: &mut Job, recipient: &str, reply: &Reply) -> Option<Reply> {
        self.shared.trouble(reply.code.to_string());
        if reply.is_transient() {
            return Some(reply.clone());
        }
        job.recipients.retain(|other| other != recipient);
        self.shared.refuse(job, vec![recipient.to_owned()], Some(reply.code), &reply.text);
        None
    }

    /// Queues what is left of a job, or gives it up.
    fn repeat(&mut self, mut job: Job, reply: &Reply) {
        let now = Instant::now();
        let begun = job.begun.unwrap_or(now);
        match self.shared.options.retry {
            Some(retry) if now.duration_since(begun) < retry.limit => {
                job.due = now + retry.delay;
                self.waiting.push_back(job);
            }
            _ => {
                let recipients = std::mem::take(&mut job.recipients);
                self.shared.refuse(&job, recipients, (reply.code > 0).then_some(reply.code), &reply.text);
            }
        }
    }

    /// A new job that may go out now.
    fn next_at_once(&mut self) -> Option<Job> {
        let job = self.shared.next_job()?;
        if job.due <= Instant::now() {
            return Some(job);
        }
        self.waiting.push_back(job);
        None
    }

    fn is_full(&self, line: &Line) -> bool {
        self.shared.options.messages_per_connection.is_some_and(|most| line.messages_count >= most)
    }

    /// The connection at hand, or a new one.
    async fn ready(&mut self) -> Result<Line, ConnectionError> {
        match self.line.take() {
            Some(line) if !self.is_full(&line) => return Ok(line),
            Some(line) => line.close().await,
            None => {}
        }
        let line = Line::open(self.shared).await?;
        self.shared.log(|log| log.report.connections_count += 1);
        Ok(line)
    }
}

impl Line {
    async fn open(shared: &Shared) -> Result<Self, ConnectionError> {
        let options = &shared.options;
        let mut connection = Connection::open(options.to, options.reply_timeout).await?;
        if options.tls == Tls::Immediate {
            connection.secure().await?;
        }
        expect(connection.reply().await?)?;
        let mut reply = hello(&mut connection, options.protocol).await?;
        if options.tls == Tls::StartTls {
            connection.put(b"STARTTLS\r\n");
            expect(connection.reply().await?)?;
            connection.secure().await?;
            reply = hello(&mut connection, options.protocol).await?;
        }
        let offers = |keyword: &str| {
            let mut lines = reply.text.lines().skip(1);
            lines.any(|line| line.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(keyword)))
        };
        let pipelining = if offers("PIPELINING") { options.pipelining } else { Pipelining::Off };
        let prioritized = offers("MT-PRIORITY");
        Ok(Self { connection, pipelining, prioritized, messages_count: 0 })
    }

    fn mail(&self, job: &Job, sender: &str) -> String {
        match job.priority {
            Some(priority) if self.prioritized => format!("MAIL FROM:<{sender}> MT-PRIORITY={priority}\r\n"),
            _ => format!("MAIL FROM:<{sender}>\r\n"),
        }
    }

    fn put_envelope(&mut self, job: &Job, sender: &str) {
        let mut commands = self.mail(job, sender);
        for recipient in &job.recipients {
            commands.push_str("RCPT TO:<");
            commands.push_str(recipient);
            commands.push_str(">\r\n");
        }
        commands.push_str("DATA\r\n");
        self.connection.put(commands.as_bytes());
    }

    async fn envelope(&mut self, job: &Job, sender: &str, sent: Envelope) -> Result<Answer, ConnectionError> {
        let mut answer = Answer { taken: Vec::new(), refused: Vec::new(), data: None };
        let together = self.pipelining != Pipelining::Off;
        if !together {
            self.connection.put(self.mail(job, sender).as_bytes());
        } else if sent == Envelope::Unsent {
            self.put_envelope(job, sender);
        }
        let mail = still_there(self.connection.reply().await?)?;
        for recipient in &job.recipients {
            if !mail.accepts() && !together {
                answer.refused.push((recipient.clone(), mail.clone()));
                continue;
            }
            if !together {
                self.connection.put(format!("RCPT TO:<{recipient}>\r\n").as_bytes());
            }
            let reply = still_there(self.connection.reply().await?)?;
            if !mail.accepts() {
                // The reason is that of MAIL, not the 503 that follows from it.
                answer.refused.push((recipient.clone(), mail.clone()));
            } else if reply.accepts() {
                answer.taken.push(recipient.clone());
            } else {
                answer.refused.push((recipient.clone(), reply));
            }
        }
        if together || !answer.taken.is_empty() {
            if !together {
                self.connection.put(b"DATA\r\n");
            }
            answer.data = Some(still_there(self.connection.reply().await?)?);
        }
        Ok(answer)
    }

    /// Leaves a transaction that came to nothing.
    async fn forget(&mut self) -> Result<(), ConnectionError> {
        self.connection.put(b"RSET\r\n");
        still_there(self.connection.reply().await?)?;
        Ok(())
    }

    /// Says QUIT. Whether the server hears it changes nothing.
    async fn close(mut self) {
        self.connection.put(b"QUIT\r\n");
        let _ = self.connection.reply().await;
    }
}

/// The reply to EHLO or LHLO, or to HELO of a server that knows no other.
async fn hello(connection: &mut Connection, protocol: Protocol) -> Result<Reply, ConnectionError> {
    let hello = match protocol {
        Protocol::Smtp => "EHLO source.load.test\r\n",
        Protocol::Lmtp => "LHLO source.load.test\r\n",
    };
    connection.put(hello.as_bytes());
    let mut reply = connection.reply().await?;
    if protocol == Protocol::Smtp && (500..600).contains(&reply.code) {
        connection.put(b"HELO source.load.test\r\n");
        reply = connection.reply().await?;
    }
    expect(reply)
}

/// 421 announces the end of the connection (RFC 5321, 3.8).
fn still_there(reply: Reply) -> Result<Reply, ConnectionError> {
    if reply.code == 421 { Err(ConnectionError::Unwilling(reply)) } else { Ok(reply) }
}

fn expect(reply: Reply) -> Result<Reply, ConnectionError> {
    if reply.accepts() { Ok(reply) } else { Err(ConnectionError::Unwilling(reply)) }
}
