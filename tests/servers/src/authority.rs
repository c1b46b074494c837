//! Certificates for servers, of an authority that nobody else trusts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};

use crate::process::Account;

/// A certificate and whose it is.
#[derive(Debug)]
pub struct Issued {
    /// Of an authority that has issued nothing else.
    pub authority: Certificate,
    /// The server's.
    pub certificate: Certificate,
    /// The server's private key.
    pub key: KeyPair,
}

impl Issued {
    /// Makes one for a server of that name or address.
    ///
    /// # Panics
    /// When it is neither.
    #[must_use]
    pub fn to(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).expect("signed");
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .and_then(|params| params.signed_by(&key, &issuer))
            .expect("signed");
        Self {
            authority,
            certificate,
            key,
        }
    }
}

/// The files of a server that speaks TLS, in its home.
#[derive(Debug)]
pub(crate) struct Certificates<'a> {
    home: &'a Path,
}

impl<'a> Certificates<'a> {
    /// Makes an authority and its certificate for 127.0.0.1.
    pub(crate) fn make(home: &'a Path, account: &Account) -> Self {
        let issued = Issued::to("127.0.0.1");
        let made = Self { home };
        for (path, content) in [
            (made.authority(), issued.authority.pem()),
            (made.certificate(), issued.certificate.pem()),
            (made.key(), issued.key.serialize_pem()),
        ] {
            fs::write(&path, content).expect("written");
            // PostgreSQL wants its key to itself.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
            account.own(&path);
        }
        made
    }

    /// Those that were made there.
    pub(crate) fn of(home: &'a Path) -> Self {
        Self { home }
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.home.join("authority.pem")
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.home.join("certificate.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.home.join("key.pem")
    }
}
