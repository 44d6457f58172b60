//! Settings to take away: the document, with secrets only under a passphrase.
//!
//! Sealed secrets are a section of the document, `[sealed_secrets]`: the key is PBKDF2-HMAC-SHA256
//! of the passphrase over a random salt of 16 bytes with [`limits::EXPORT_ROUNDS`] rounds, the
//! cipher AES-256-GCM with a random nonce of 12 bytes, over the text of the secrets file. The
//! method's name, salt and rounds are authenticated with it.

use std::num::NonZeroU32;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use aws_lc_rs::{error::Unspecified, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::document::{Document, WriteError};
use crate::limits;
use crate::parse;
use crate::problem::Problems;
use crate::record;
use crate::secrets::{Secrets, SecretsError};

/// The only method there is.
const METHOD: &str = "pbkdf2-hmac-sha256+aes-256-gcm";

const SALT_BYTES: usize = 16;

/// Secrets under a passphrase.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SealedSecrets {
    /// How they are sealed.
    pub method: String,
    /// Rounds of PBKDF2.
    pub rounds: u32,
    /// Salt of PBKDF2, base64.
    pub salt: String,
    /// Nonce of AES-GCM, base64.
    pub nonce: String,
    /// The secrets, base64.
    pub data: String,
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The passphrase is too short.
    #[error(
        "the passphrase is shorter than {} characters; whoever gets the file can try as many as \
         they like",
        limits::PASSPHRASE_CHARS
    )]
    WeakPassphrase,
    /// No random numbers, or no cipher.
    #[error("the secrets could not be encrypted; the system's random numbers or cryptography fail")]
    Crypto,
    /// The document cannot be written down.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why an import is not possible.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The text is no settings document.
    #[error("{0}")]
    Invalid(Problems),
    /// It has secrets, and no passphrase was given.
    #[error("the export holds secrets; give its passphrase")]
    PassphraseNeeded,
    /// The passphrase is not the right one, or the section was changed.
    #[error("the secrets cannot be decrypted: the passphrase is wrong, or the file is damaged")]
    WrongPassphrase,
    /// The section is not one that this release reads.
    #[error("sealed_secrets.{key}: {reason}")]
    Sealed {
        /// The key that is wrong.
        key: &'static str,
        /// Why.
        reason: String,
    },
    /// What was decrypted is no list of secrets.
    #[error("the decrypted secrets cannot be used")]
    Secrets(#[source] SecretsError),
    /// The document cannot be written down.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// An export that was read.
#[derive(Debug)]
pub struct Imported {
    /// The document, without the sealed section.
    pub document: Document,
    /// Its text: as given where there were no secrets in it, else canonical.
    pub text: String,
    /// The secrets; none where the export was made without.
    pub secrets: Vec<(String, SecretString)>,
}

/// A document's text for taking away. With secrets and a passphrase, all of the secrets are in it,
/// sealed; without, none are, and the names that the document refers to must be given secrets where
/// it is imported.
///
/// # Errors
/// The passphrase is too short, encryption fails, or the document cannot be written.
pub fn export(
    document: &Document,
    with_secrets: Option<(&Secrets, &SecretString)>,
) -> Result<String, ExportError> {
    let mut document = document.clone();
    document.sealed_secrets = match with_secrets {
        Some((secrets, passphrase)) => Some(seal(secrets, passphrase)?),
        None => None,
    };
    let note = if document.sealed_secrets.is_some() {
        "# Settings of Sanctum with secrets under a passphrase.\n"
    } else {
        "# Settings of Sanctum; secrets are not in here.\n"
    };
    Ok(format!("{note}{}", document.to_text()?))
}

/// Reads an export, or any settings document.
///
/// # Errors
/// It is no document, or its secrets cannot be had.
pub fn import(bytes: &[u8], passphrase: Option<&SecretString>) -> Result<Imported, ImportError> {
    let mut document = parse::parse(bytes).map_err(ImportError::Invalid)?;
    let text = parse::text(bytes, limits::DOCUMENT_BYTES).map_err(ImportError::Invalid)?;
    let Some(sealed) = document.sealed_secrets.take() else {
        return Ok(Imported {
            document,
            text: record::without_header(text).to_owned(),
            secrets: Vec::new(),
        });
    };
    let passphrase = passphrase.ok_or(ImportError::PassphraseNeeded)?;
    let secrets = open(&sealed, passphrase)?;
    let text = document.to_text()?;
    Ok(Imported {
        document,
        text,
        secrets,
    })
}

fn seal(secrets: &Secrets, passphrase: &SecretString) -> Result<SealedSecrets, ExportError> {
    if passphrase.expose_secret().chars().count() < limits::PASSPHRASE_CHARS {
        return Err(ExportError::WeakPassphrase);
    }
    let mut salt = [0; SALT_BYTES];
    let mut nonce = [0; NONCE_LEN];
    let crypto = |_: Unspecified| ExportError::Crypto;
    rand::fill(&mut salt).map_err(crypto)?;
    rand::fill(&mut nonce).map_err(crypto)?;
    let mut sealed = SealedSecrets {
        method: METHOD.to_owned(),
        rounds: limits::EXPORT_ROUNDS,
        salt: BASE64.encode(salt),
        nonce: BASE64.encode(nonce),
        data: String::new(),
    };
    let key = key(passphrase, &salt, sealed.rounds).ok_or(ExportError::Crypto)?;
    // Encrypted in place; what capacity is left for the tag keeps it from being moved and left
    // behind.
    let text = secrets.to_text();
    let mut data = Zeroizing::new(Vec::with_capacity(text.len() + AES_256_GCM.tag_len()));
    data.extend_from_slice(text.as_bytes());
    let aad = Aad::from(sealed.authenticated());
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, aad, &mut *data)
        .map_err(crypto)?;
    sealed.data = BASE64.encode(&*data);
    Ok(sealed)
}

fn open(
    sealed: &SealedSecrets,
    passphrase: &SecretString,
) -> Result<Vec<(String, SecretString)>, ImportError> {
    let wrong = |key, reason: &str| ImportError::Sealed {
        key,
        reason: reason.to_owned(),
    };
    if sealed.method != METHOD {
        let reason = format!("this release knows only \"{METHOD}\"");
        return Err(wrong("method", &reason));
    }
    if !(limits::IMPORT_ROUNDS_MIN..=limits::IMPORT_ROUNDS_MAX).contains(&sealed.rounds) {
        let reason = format!(
            "from {} to {}",
            limits::IMPORT_ROUNDS_MIN,
            limits::IMPORT_ROUNDS_MAX
        );
        return Err(wrong("rounds", &reason));
    }
    let salt = BASE64.decode(&sealed.salt).ok();
    let salt = salt.filter(|salt| salt.len() == SALT_BYTES);
    let salt = salt.ok_or_else(|| wrong("salt", "16 bytes as base64"))?;
    let nonce = BASE64.decode(&sealed.nonce).ok();
    let nonce = nonce.and_then(|nonce| Nonce::try_assume_unique_for_key(&nonce).ok());
    let nonce = nonce.ok_or_else(|| wrong("nonce", "12 bytes as base64"))?;
    let data = BASE64.decode(&sealed.data);
    let data = data.map_err(|_| wrong("data", "is no base64"))?;
    let mut data = Zeroizing::new(data);

    let key = key(passphrase, &salt, sealed.rounds).ok_or(ImportError::WrongPassphrase)?;
    let aad = Aad::from(sealed.authenticated());
    let text = key
        .open_in_place(nonce, aad, &mut data)
        .map_err(|_| ImportError::WrongPassphrase)?;
    Secrets::read_text(text).map_err(ImportError::Secrets)
}

fn key(passphrase: &SecretString, salt: &[u8], rounds: u32) -> Option<LessSafeKey> {
    let mut key = Zeroizing::new([0; 32]);
    let passphrase = passphrase.expose_secret().as_bytes();
    let rounds = NonZeroU32::new(rounds)?;
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        rounds,
        salt,
        passphrase,
        &mut *key,
    );
    UnboundKey::new(&AES_256_GCM, &*key)
        .ok()
        .map(LessSafeKey::new)
}

impl SealedSecrets {
    /// What cannot be changed without the passphrase, beside the data.
    fn authenticated(&self) -> Vec<u8> {
        format!("{}\n{}\n{}", self.method, self.rounds, self.salt).into_bytes()
    }
}
