//! A client of SCRAM-SHA-256 written from RFC 5802 and RFC 7677.

use super::client::Client;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;

const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

/// The server's first message, or the reply that refuses.
fn server_first(client: &mut Client, name: &str) -> Result<String, String> {
    let first = STANDARD.encode(format!("n,,n={name},r={NONCE}"));
    let reply = client.command(&format!("AUTH SCRAM-SHA-256 {first}"));
    let challenge = reply.strip_prefix("334 ").ok_or_else(|| reply.clone())?;
    Ok(String::from_utf8(STANDARD.decode(challenge).expect("challenges are base64")).expect("of text"))
}

/// The salt that a name has.
pub(crate) fn salt_of(client: &mut Client, name: &str) -> String {
    let first = server_first(client, name).expect("every name has a salt");
    first.split(',').nth(1).expect("the salt is the second part").to_owned()
}

/// Authenticates, and checks the server's signature. The last reply.
pub(crate) fn authenticate(client: &mut Client, name: &str, password: &str) -> String {
    let first = match server_first(client, name) {
        Ok(first) => first,
        Err(reply) => return reply,
    };
    let parts: Vec<&str> = first.split(',').collect();
    let salt = STANDARD.decode(&parts[1][2..]).expect("a salt is base64");
    let count: NonZeroU32 = parts[2][2..].parse().expect("a count is a number");
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, count, &salt, password.as_bytes(), &mut salted);
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let client_key = sign(&salted, "Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let without_proof = format!("c=biws,{}", parts[0]);
    let signed = format!("n={name},r={NONCE},{first},{without_proof}");
    let signature = sign(stored_key.as_ref(), &signed);
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    let reply = client.command(&STANDARD.encode(format!("{without_proof},p={}", STANDARD.encode(proof))));
    let Some(challenge) = reply.strip_prefix("334 ") else { return reply };
    let wanted = sign(sign(&salted, "Server Key").as_ref(), &signed);
    let wanted = format!("v={}", STANDARD.encode(wanted));
    assert_eq!(STANDARD.decode(challenge).expect("challenges are base64"), wanted.as_bytes());
    client.command("")
}
