//! Offsets of members in the running kernel's structures, from its type information
//! (`Documentation/bpf/btf.rst`). aya reads the same and shows no members.

/// `linux/btf.h`.
const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// Bytes from the beginning of the structure to its member, for each pair of (structure, member). `None`:
/// there is none, or the information cannot be read. Members of anonymous members are not looked at.
pub(super) fn offsets<const N: usize>(btf: &[u8], wanted: [(&str, &str); N]) -> Option<[u64; N]> {
    let found = wanted.map(|(structure, member)| offset(btf, structure, member));
    let mut offsets = [0; N];
    for (offset, found) in offsets.iter_mut().zip(found) {
        *offset = found?;
    }
    Some(offsets)
}

fn offset(btf: &[u8], structure: &str, member: &str) -> Option<u64> {
    let mut header = Reader(btf);
    if header.u16()? != MAGIC {
        return None;
    }
    // Version and flags.
    header.u16()?;
    let beginning = header.u32()?;
    let [types, types_len, strings, strings_len] =
        [header.u32()?, header.u32()?, header.u32()?, header.u32()?];
    let section = |offset: u32, length: u32| {
        let from = usize::try_from(beginning.checked_add(offset)?).ok()?;
        let to = from.checked_add(usize::try_from(length).ok()?)?;
        btf.get(from..to)
    };
    let mut types = Reader(section(types, types_len)?);
    let strings = section(strings, strings_len)?;
    while !types.0.is_empty() {
        let (name, info) = (types.u32()?, types.u32()?);
        // Size, or another type.
        types.u32()?;
        let (kind, count, bit_fields) = (info >> 24 & 0x1f, info & 0xffff, info >> 31 != 0);
        if kind == KIND_STRUCT && text(strings, name)? == structure.as_bytes() {
            for _ in 0..count {
                let name = types.u32()?;
                // The member's type.
                types.u32()?;
                let place = types.u32()?;
                if text(strings, name)? == member.as_bytes() {
                    let bits = if bit_fields { place & 0xff_ffff } else { place };
                    return (bits % 8 == 0).then_some(u64::from(bits / 8));
                }
            }
            continue;
        }
        let behind = match kind {
            KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * count,
            KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
            _ => 0,
        };
        types.skip(behind)?;
    }
    None
}

/// The text at an offset, which ends in a zero.
fn text(strings: &[u8], offset: u32) -> Option<&[u8]> {
    strings
        .get(usize::try_from(offset).ok()?..)?
        .split(|byte| *byte == 0)
        .next()
}

/// What is left to read, in the machine's order.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*value))
    }

    fn u16(&mut self) -> Option<u16> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_ne_bytes(*value))
    }

    fn skip(&mut self, bytes: u32) -> Option<()> {
        self.0 = self.0.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::offsets;

    /// An integer, `struct a { int x; struct b; int y; }` and `struct b` with a bit field.
    fn sample() -> Vec<u8> {
        let strings = b"\0a\0b\0x\0y\0int\0";
        let words: [u32; 28] = [
            9,
            1 << 24,
            4,
            32, // int
            0,
            3 << 24,
            0,
            1,
            1,
            7, // an array
            3,
            1 << 31 | 4 << 24 | 2,
            8,
            5,
            1,
            3 << 24 | 5,
            7,
            1,
            32, // struct b
            1,
            4 << 24 | 2,
            16,
            5,
            1,
            0,
            7,
            1,
            96, // struct a
        ];
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let lengths = [
            24,
            0,
            u32::try_from(types.len()).unwrap(),
            u32::try_from(types.len()).unwrap(),
            u32::try_from(strings.len()).unwrap(),
        ];
        let mut btf = [0xeb9f_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat();
        btf.extend(lengths.iter().flat_map(|word| word.to_ne_bytes()));
        btf.extend(types);
        btf.extend(strings);
        btf
    }

    #[test]
    fn members_are_found_by_name() {
        let btf = sample();
        assert_eq!(offsets(&btf, [("a", "y"), ("a", "x")]), Some([12, 0]));
        assert_eq!(offsets(&btf, [("b", "y")]), Some([4]));
        // A bit in the middle of a byte has no offset.
        assert_eq!(offsets(&btf, [("b", "x")]), None);
        for absent in [("a", "z"), ("c", "x"), ("int", "x"), ("", "")] {
            assert_eq!(offsets(&btf, [absent]), None, "{absent:?}");
        }
    }

    #[test]
    fn what_is_cut_short_has_no_members() {
        let btf = sample();
        for end in 0..btf.len() {
            let cut = btf.get(..end).unwrap();
            assert_eq!(offsets(cut, [("a", "y")]), None, "{end}");
        }
    }
}
