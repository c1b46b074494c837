//! The dead queue: what was given up, and messages that nobody could answer. The store has the
//! record of each delivery; this is for whoever watches the broker.

use async_trait::async_trait;
use lapin::message::Delivery as Message;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, Channel};

use super::super::broker::{Broker, BrokerError, DeadMessage, Depth, Drain, Drained};
use super::publisher::Route;
use super::{RabbitQueue, Ticket, message};
use crate::domain::delivery::DeliveryState;
use crate::domain::id::DeliveryId;
use crate::queue::Queue as _;
use crate::store::{Queued, Store, StoreError};

/// What the broker writes of a message that it took out of a queue.
const FIRST_DEATH: &str = "x-first-death-reason";
/// A delivery that this gateway has given up.
const GIVEN_UP: &str = "given_up";

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        Self::Away(Some(Box::new(error)))
    }
}

fn reason(properties: &BasicProperties) -> String {
    let headers = properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(FIRST_DEATH)) {
        Some(AMQPValue::LongString(reason)) => reason.to_string(),
        _ => GIVEN_UP.to_owned(),
    }
}

fn seen(message: &Message) -> DeadMessage {
    DeadMessage {
        told: message::decode(&message.data).map(|queued| (queued.id, queued.subscription_id)),
        reason: reason(&message.properties),
    }
}

impl<S: Store + ?Sized> RabbitQueue<S> {
    /// Tells the dead queue that a delivery was given up.
    pub(super) async fn tell_of_the_dead(&self, id: DeliveryId, ticket: Option<&Ticket>) {
        let subscription_id = match ticket {
            Some(ticket) => Some(ticket.subscription_id),
            None => {
                let delivery = self.store.delivery(id).await.ok().flatten();
                delivery.map(|delivery| delivery.subscription_id)
            }
        };
        if let Some(subscription_id) = subscription_id {
            let queued = Queued {
                id,
                subscription_id,
                due: self.clock.now(),
            };
            self.publisher.publish(queued, Route::Dead);
        }
    }

    async fn channel(&self) -> Result<Channel, BrokerError> {
        let session = self.link.session().ok_or(BrokerError::Away(None))?;
        Ok(session.channel().await?)
    }

    /// True: the delivery is due again. Only what failed is: the message may be old.
    async fn revive(&self, id: DeliveryId) -> Result<bool, StoreError> {
        let delivery = self.store.delivery(id).await?;
        if delivery.is_none_or(|delivery| delivery.state != DeliveryState::Failed) {
            return Ok(false);
        }
        Ok(self.store.retry(id, self.clock.now()).await?.is_some())
    }
}

#[async_trait]
impl<S: Store + ?Sized> Broker for RabbitQueue<S> {
    fn is_up(&self) -> bool {
        self.link.is_up()
    }

    fn depths(&self) -> Vec<Depth> {
        let depths = self.link.depths();
        [
            ("process", depths.process),
            ("replay", depths.replay),
            ("dead", depths.dead),
        ]
        .map(|(queue, messages)| Depth { queue, messages })
        .into()
    }

    async fn dead(&self, limit: usize) -> Result<Vec<DeadMessage>, BrokerError> {
        let channel = self.channel().await?;
        let mut got = Vec::new();
        while got.len() < limit
            && let Some(message) = channel
                .basic_get(self.link.topology.dead.clone(), BasicGetOptions::default())
                .await?
        {
            got.push(message.delivery);
        }
        let messages = got.iter().map(seen).collect();
        for message in got {
            let requeue = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            message.acker.nack(requeue).await?;
        }
        channel.close(200, "seen".into()).await?;
        Ok(messages)
    }

    async fn drain(&self, how: Drain, limit: usize) -> Result<Drained, BrokerError> {
        let channel = self.channel().await?;
        let mut drained = Drained::default();
        for _ in 0..limit {
            let options = BasicGetOptions::default();
            let got = channel.basic_get(self.link.topology.dead.clone(), options);
            let Some(got) = got.await? else { break };
            if how == Drain::Requeue
                && let Some(queued) = message::decode(&got.delivery.data)
                && self.revive(queued.id).await?
            {
                drained.requeued += 1;
            }
            got.delivery.acker.ack(BasicAckOptions::default()).await?;
            drained.messages += 1;
        }
        channel.close(200, "drained".into()).await?;
        if drained.requeued > 0 {
            self.wake(self.clock.now());
        }
        Ok(drained)
    }
}
