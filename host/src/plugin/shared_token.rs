//! Access tokens that other processes fetched, and the turn to fetch one for all.
//!
//! A token leaves the process sealed, for as long as it may be used. A refresh token that a server
//! gave in place of another outlives it, so that the next process presents the right one. Without
//! an answer each process fetches its own, as without anything shared.

use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroizing;

use super::state::CallShared;
use crate::coord::sealed::SealedValues;
use crate::domain::delivery::FencingToken;

/// The turn of a process that died ends after this.
const TURN: Duration = Duration::from_secs(30);
/// How long another process's turn is waited for, at most; a call has its own deadline.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const REFRESH_TOKEN_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The place of one token.
pub(super) struct SharedToken<'a> {
    values: &'a SealedValues,
    name: String,
}

/// What is to be done for a token.
pub(super) enum Turn {
    /// Nothing: here it is, usable for so long.
    Given(Zeroizing<String>, Duration),
    /// Fetch it. With the proof that nobody else is at it, if that is known.
    Fetch(Option<FencingToken>),
}

fn text(value: &[u8]) -> Option<Zeroizing<String>> {
    let text = std::str::from_utf8(value).ok()?;
    Some(Zeroizing::new(text.to_owned()))
}

impl<'a> SharedToken<'a> {
    /// The place of the token with this key, where anything is shared.
    pub(super) fn of(shared: &'a CallShared, key: &[u8]) -> Option<Self> {
        use base64::Engine as _;
        let context = &shared.context;
        let digest = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key);
        Some(Self {
            values: context.shared.as_deref()?,
            name: format!("oauth2/{}/{digest}", context.provider),
        })
    }

    async fn get(&self) -> Option<(Zeroizing<String>, Duration)> {
        let opened = self.values.get(&self.name).await?;
        Some((text(&opened.value)?, opened.left))
    }

    /// The token, or the turn to fetch it.
    pub(super) async fn turn(&self) -> Turn {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some((token, left)) = self.get().await {
                return Turn::Given(token, left);
            }
            match self.values.begin(&self.name, TURN).await {
                Ok(Some(proof)) => {
                    // Whose turn it was may have ended it just now.
                    let Some((token, left)) = self.get().await else {
                        return Turn::Fetch(Some(proof));
                    };
                    self.end(Some(proof)).await;
                    return Turn::Given(token, left);
                }
                Ok(None) if Instant::now() < until => tokio::time::sleep(LOOK_EVERY).await,
                Ok(None) | Err(_) => return Turn::Fetch(None),
            }
        }
    }

    /// Gives what was fetched to all, unless another turn has begun meanwhile.
    pub(super) async fn give(
        &self,
        proof: Option<FencingToken>,
        token: &str,
        lifetime: Duration,
        refresh_token: Option<&str>,
    ) {
        let Some(proof) = proof else { return };
        if !self.values.still(&self.name, proof, TURN).await {
            return;
        }
        self.values
            .put(&self.name, token.as_bytes(), lifetime)
            .await;
        if let Some(refresh) = refresh_token {
            let name = self.refresh_name();
            let ttl = REFRESH_TOKEN_TTL;
            self.values.put(&name, refresh.as_bytes(), ttl).await;
        }
    }

    /// Ends the turn, whatever came of it.
    pub(super) async fn end(&self, proof: Option<FencingToken>) {
        if let Some(proof) = proof {
            self.values.end(&self.name, proof).await;
        }
    }

    /// The refresh token that a server gave last.
    pub(super) async fn refresh_token(&self) -> Option<Zeroizing<String>> {
        text(&self.values.get(&self.refresh_name()).await?.value)
    }

    /// Forgets the token, unless it is another than `known` by now.
    pub(super) async fn forget(&self, known: Option<&str>) {
        if let Some((token, _)) = self.get().await
            && known.is_none_or(|known| known == token.as_str())
        {
            self.values.remove(&self.name).await;
        }
    }

    fn refresh_name(&self) -> String {
        format!("refresh-{}", self.name)
    }
}
