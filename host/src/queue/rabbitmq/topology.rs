//! The queues and how they are connected. Declaring is idempotent: what is there stays.
//!
//! ```text
//! publish → process, replay                                (default exchange, by name)
//! publish → delay.k ─ bit k of the delay is 1 → queue delay.k, 2^k s ─┐ expired
//!              └──── bit k is 0 ───────────────→ delay.(k-1) ←────────┘
//! delay.0 → due → process
//! process, replay ─ delivered too often, unreadable → dead
//! ```
//!
//! A delay is written in binary into the routing key and goes down the rungs whose bits are set.
//! All messages of a rung wait equally long, so that none waits behind another one (as in
//! NServiceBus' transport for RabbitMQ). Dead-lettering is at-least-once.

use std::time::Duration;

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, ExchangeKind};

/// Rungs of 2^0 to 2^16 s: any delay of up to 36 hours.
pub(super) const RUNGS: usize = 17;
/// A message that was handed out so often without an answer is poison. Every lost connection
/// counts for what was on its way.
const DELIVERIES_MAX: i64 = 50;
/// The dead queue is looked at by taking and giving back, which must not lose anything.
const LOOKS_MAX: i64 = 1_000_000;

/// How many messages wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Depths {
    pub(super) process: u64,
    pub(super) replay: u64,
    pub(super) dead: u64,
}

/// The names, below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    pub(super) process: ShortString,
    pub(super) replay: ShortString,
    pub(super) dead: ShortString,
    due: ShortString,
    rungs: Vec<ShortString>,
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

/// What every queue here is.
fn quorum() -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), text("quorum"));
    table
}

/// With messages that leave it otherwise than by an acknowledgement going to `exchange`, under
/// `key` or their own; kept until they have arrived there.
fn dead_lettering(exchange: &str, key: Option<&str>) -> FieldTable {
    let mut table = quorum();
    table.insert("x-dead-letter-exchange".into(), text(exchange));
    if let Some(key) = key {
        table.insert("x-dead-letter-routing-key".into(), text(key));
    }
    table.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    // What the strategy asks for.
    table.insert("x-overflow".into(), text("reject-publish"));
    table
}

impl Topology {
    pub(super) fn new(prefix: &str) -> Self {
        let name = |name: &str| ShortString::from(format!("{prefix}.{name}"));
        Self {
            process: name("process"),
            replay: name("replay"),
            dead: name("dead"),
            due: name("due"),
            rungs: (0..RUNGS)
                .map(|rung| name(&format!("delay.{rung}")))
                .collect(),
        }
    }

    /// The exchange and the routing key for a delay of whole seconds; `None`: there is none.
    pub(super) fn delayed(&self, delay: Duration) -> Option<(ShortString, ShortString)> {
        let seconds = delay.as_secs().min((1 << RUNGS) - 1);
        let highest = usize::try_from(seconds.checked_ilog2()?).ok()?;
        Some((self.rungs.get(highest)?.clone(), routing_key(seconds)))
    }

    /// Declares everything.
    pub(super) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        self.declare_queues(channel).await?;
        self.declare_exchange(channel, &self.due, ExchangeKind::Fanout)
            .await?;
        let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(
                self.process.clone(),
                self.due.clone(),
                "".into(),
                bind,
                none.clone(),
            )
            .await?;
        let mut below = &self.due;
        for (number, rung) in self.rungs.iter().enumerate() {
            self.declare_exchange(channel, rung, ExchangeKind::Topic)
                .await?;
            let mut settings = dead_lettering(below.as_str(), None);
            settings.insert(
                "x-message-ttl".into(),
                AMQPValue::LongLongInt(1_000 << number),
            );
            let durable = QueueDeclareOptions::durable();
            channel
                .queue_declare(rung.clone(), durable, settings)
                .await?;
            let stay = pattern(number, '1');
            channel
                .queue_bind(rung.clone(), rung.clone(), stay, bind, none.clone())
                .await?;
            let pass = pattern(number, '0');
            let options = ExchangeBindOptions::default();
            channel
                .exchange_bind(below.clone(), rung.clone(), pass, options, none.clone())
                .await?;
            below = rung;
        }
        Ok(())
    }

    async fn declare_exchange(
        &self,
        channel: &Channel,
        name: &ShortString,
        kind: ExchangeKind,
    ) -> lapin::Result<()> {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let none = FieldTable::default();
        channel
            .exchange_declare(name.clone(), kind, options, none)
            .await
    }

    /// Declares the queues that are consumed, and tells how many messages wait in them.
    pub(super) async fn declare_queues(&self, channel: &Channel) -> lapin::Result<Depths> {
        let durable = QueueDeclareOptions::durable();
        let mut kept = quorum();
        kept.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(LOOKS_MAX));
        let dead = channel.queue_declare(self.dead.clone(), durable, kept);
        let dead = dead.await?.message_count();
        let mut limited = dead_lettering("", Some(self.dead.as_str()));
        limited.insert(
            "x-delivery-limit".into(),
            AMQPValue::LongLongInt(DELIVERIES_MAX),
        );
        let process = channel.queue_declare(self.process.clone(), durable, limited.clone());
        let process = process.await?.message_count();
        let replay = channel.queue_declare(self.replay.clone(), durable, limited);
        Ok(Depths {
            process: process.into(),
            replay: replay.await?.message_count().into(),
            dead: dead.into(),
        })
    }
}

/// A delay's bits, the highest first.
fn routing_key(seconds: u64) -> ShortString {
    let bits: Vec<&str> = (0..RUNGS)
        .rev()
        .map(|rung| if seconds >> rung & 1 == 1 { "1" } else { "0" })
        .collect();
    bits.join(".").into()
}

/// Keys whose bit of that rung is `bit`.
fn pattern(rung: usize, bit: char) -> ShortString {
    let before = "*.".repeat(RUNGS - 1 - rung);
    let after = if rung == 0 { "" } else { ".#" };
    format!("{before}{bit}{after}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_begins_at_its_highest_rung_and_names_all() {
        let topology = Topology::new("p");
        let delayed = |ms| {
            let (exchange, key) = topology.delayed(Duration::from_millis(ms))?;
            Some((exchange.to_string(), key.to_string()))
        };
        assert_eq!(delayed(999), None);
        let zeros = |count| "0.".repeat(count);
        let expected = |rung: &str, key: String| Some((format!("p.delay.{rung}"), key));
        assert_eq!(delayed(1_000), expected("0", zeros(16) + "1"));
        assert_eq!(delayed(5_900), expected("2", zeros(14) + "1.0.1"));
        assert_eq!(
            delayed(1_000_000_000),
            expected("16", vec!["1"; RUNGS].join("."))
        );
    }

    #[test]
    fn a_rung_takes_what_has_its_bit() {
        assert_eq!(pattern(0, '1').as_str(), "*.".repeat(16) + "1");
        assert_eq!(pattern(15, '0').as_str(), "*.0.#");
        assert_eq!(pattern(16, '1').as_str(), "1.#");
    }
}
