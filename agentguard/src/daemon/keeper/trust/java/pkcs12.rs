//! A store in PKCS#12 (RFC 7292) without a password: nothing in it is encrypted, and no code
//! authenticates it. Java reads no other without being told a password, so a `cacerts` has this form
//! (JDK-8275252).

use yasna::models::ObjectIdentifier;
use yasna::{ASN1Result, BERReader, DERWriter, Tag};

const DATA: [u64; 7] = [1, 2, 840, 113_549, 1, 7, 1];
const CERTIFICATE_BAG: [u64; 9] = [1, 2, 840, 113_549, 1, 12, 10, 1, 3];
const X509: [u64; 8] = [1, 2, 840, 113_549, 1, 9, 22, 1];
const FRIENDLY_NAME: [u64; 7] = [1, 2, 840, 113_549, 1, 9, 20];
/// Java trusts a certificate for what this says, and no other in the store.
const TRUSTED_KEY_USAGE: [u64; 8] = [2, 16, 840, 1, 113_894, 746_875, 1, 1];
const ANY_USAGE: [u64; 5] = [2, 5, 29, 37, 0];

/// A store with these authorities, in DER, added. `None`: it is none of this form.
pub(super) fn added(store: &[u8], ours: &[Vec<u8>]) -> Option<Vec<u8>> {
    let safe = yasna::parse_der(store, read_store).ok()?;
    let contents = yasna::parse_der(&safe, |reader| reader.collect_sequence_of(read_content));
    let mut bags = contents
        .ok()?
        .iter()
        .map(|content| yasna::parse_der(content, |reader| reader.collect_sequence_of(any)).ok())
        .collect::<Option<Vec<_>>>()?
        .concat();
    for (number, certificate) in ours.iter().enumerate() {
        bags.push(yasna::construct_der(|writer| {
            write_bag(writer, &super::alias(number), certificate);
        }));
    }
    Some(written(&bags))
}

/// `PFX` without `macData`. Gives the authenticated safe.
fn read_store(reader: BERReader<'_, '_>) -> ASN1Result<Vec<u8>> {
    reader.read_sequence(|reader| {
        reader.next().read_u8()?;
        read_content(reader.next())
    })
}

/// `ContentInfo` with data that is not encrypted, and the data.
fn read_content(reader: BERReader<'_, '_>) -> ASN1Result<Vec<u8>> {
    reader.read_sequence(|reader| {
        if reader.next().read_oid()? != oid(&DATA) {
            return Err(yasna::ASN1Error::new(yasna::ASN1ErrorKind::Invalid));
        }
        let content = reader.next();
        content.read_tagged(Tag::context(0), |reader| reader.read_bytes())
    })
}

fn any(reader: BERReader<'_, '_>) -> ASN1Result<Vec<u8>> {
    reader.read_der()
}

fn written(bags: &[Vec<u8>]) -> Vec<u8> {
    let contents = yasna::construct_der(|writer| {
        writer.write_sequence_of(|writer| {
            for bag in bags {
                writer.next().write_der(bag);
            }
        });
    });
    let safe = yasna::construct_der(|writer| {
        writer.write_sequence_of(|writer| write_content(writer.next(), &contents));
    });
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(3);
            write_content(writer.next(), &safe);
        });
    })
}

fn write_content(writer: DERWriter<'_>, data: &[u8]) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(&DATA));
        let content = writer.next();
        content.write_tagged(Tag::context(0), |writer| writer.write_bytes(data));
    });
}

fn write_bag(writer: DERWriter<'_>, alias: &str, certificate: &[u8]) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(&CERTIFICATE_BAG));
        writer.next().write_tagged(Tag::context(0), |writer| {
            writer.write_sequence(|writer| {
                writer.next().write_oid(&oid(&X509));
                let value = writer.next();
                value.write_tagged(Tag::context(0), |writer| writer.write_bytes(certificate));
            });
        });
        writer.next().write_set_of(|writer| {
            write_attribute(writer.next(), &FRIENDLY_NAME, |writer| {
                writer.write_bmp_string(alias);
            });
            write_attribute(writer.next(), &TRUSTED_KEY_USAGE, |writer| {
                writer.write_oid(&oid(&ANY_USAGE));
            });
        });
    });
}

fn write_attribute(writer: DERWriter<'_>, kind: &[u64], value: impl FnOnce(DERWriter<'_>)) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(kind));
        writer.next().write_set_of(|writer| value(writer.next()));
    });
}

fn oid(parts: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(parts)
}

#[cfg(test)]
mod tests {
    use super::{added, written};

    /// RFC 7292, 4: a version and content, which is nothing.
    const EMPTY: &str = "020103 3024 06092a864886f70d010701 a017 0415 \
        3013 3011 06092a864886f70d010701 a004 0402 3000";
    const CODE: &str = "3018 3012 300c 06082a864886f70d0205 0500 0402 0102 0402 0102";
    const ENCRYPTED: &str = "302a 020103 3025 06092a864886f70d010701 a018 0416 \
        3014 3012 06092a864886f70d010706 a005 3003 020100";

    #[test]
    fn authorities_stand_behind_what_was_there() {
        let empty = bytes(&format!("3029 {EMPTY}"));
        assert_eq!(added(&empty, &[]).unwrap(), empty);
        assert_eq!(written(&[]), empty);
        let one = added(&empty, &[b"first".to_vec()]).unwrap();
        let two = added(&one, &[b"second".to_vec()]).unwrap();
        let at = |store: &[u8], part: &[u8]| store.windows(part.len()).position(|it| it == part);
        assert!(at(&two, b"first").unwrap() < at(&two, b"second").unwrap());
        let name: Vec<u8> = "agentguard:0"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        assert!(at(&one, &name).is_some());
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    #[test]
    fn what_is_no_store_of_this_form_is_left_alone() {
        let empty = written(&[]);
        for store in [
            b"".to_vec(),
            b"PKCS #12".to_vec(),
            [&empty[..], &[0]].concat(),
            empty[..empty.len() - 1].to_vec(),
            bytes(&format!("3043 {EMPTY} {CODE}")),
            bytes(ENCRYPTED),
        ] {
            assert_eq!(added(&store, &[b"ours".to_vec()]), None, "{store:02x?}");
        }
    }
}
