//! Private servers for tests: started from the distribution's packages on free ports and
//! directories of their own, and killed, stopped and frozen as a test likes.
//!
//! Between one and its clients a [`proxy`] can break what goes through.
//!
//! Each can speak TLS, with a certificate of an authority of its own.
//!
//! A missing server fails the test with what to install; it is never skipped. The servers end with
//! the test's process.

mod authority;
mod disk;
mod postgres;
mod process;
pub mod proxy;
mod rabbitmq;
mod redis;

pub use authority::Issued;
pub use postgres::Postgres;
pub use rabbitmq::RabbitMq;
pub use redis::Redis;
