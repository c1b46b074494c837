//! Ways to be wrong on purpose: what a checker that is worth its name must find.

/// Something that a store must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Answers that something is durable without having written it.
    AnswersWithoutCommit,
    /// Writes an event and loses a delivery of it: the outbox that was not written with it.
    LosesDeliveries,
    /// Makes a second event of an idempotency key.
    ForgetsIdempotencyKeys,
    /// Accepts what was matched against an older catalogue.
    TakesStaleMatches,
    /// Claims what others have leased.
    ClaimsWhatIsLeased,
    /// Writes results under leases that were lost.
    RecordsUnderLostLeases,
    /// Never gives a dead worker's deliveries to another.
    LeasesForEver,
    /// Writes a retry and forgets when it is due.
    ForgetsRetries,
    /// Numbers attempts with gaps.
    SkipsNumbers,
    /// Gives leases back of what has ended.
    ReopensWhatEnded,
    /// Claims a delivery before the earlier ones of its ordering key have ended.
    ForgetsOrder,
    /// Claims more than a subscription has room for.
    ForgetsCaps,
}
