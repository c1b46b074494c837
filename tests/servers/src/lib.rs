//! Private servers for tests: started from the distribution's packages on free ports and
//! directories of their own, and killed, stopped and frozen as a test likes.
//!
//! A missing server fails the test with what to install; it is never skipped. The servers end with
//! the test's process.

mod postgres;
mod process;
mod rabbitmq;
mod redis;

pub use postgres::Postgres;
pub use rabbitmq::RabbitMq;
pub use redis::Redis;
