//! Values of any type that serde reads, made up: every variant of every enum, lists of all lengths, the
//! ends of numbers. So a message that is added later is made up too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer as _, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

/// What strings are taken from: names of hosts and agents, and what is neither.
const WORDS: [&str; 8] = [
    "a.example",
    "coder",
    "xn--bcher-kva.example",
    "helper-2",
    "/sys/fs/cgroup/work",
    "Ünïcode \u{202e}\u{0}\n",
    "",
    "%s%n{}' OR 1=1 --",
];

/// Elements that one value's lists have together, at most.
const ELEMENTS: usize = 400;

/// The source of values.
#[derive(Debug)]
pub(crate) struct Random {
    state: u64,
    /// Elements that lists may still have.
    left: usize,
    /// The variants of each enum, and which of them were made.
    variants: BTreeMap<&'static str, (&'static [&'static str], BTreeSet<u32>)>,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(2).wrapping_add(1),
            left: 0,
            variants: BTreeMap::new(),
        }
    }

    /// One value; `None` where a string was not what its type takes, or a time has no end.
    pub(crate) fn value<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        self.left = ELEMENTS;
        T::deserialize(self).ok()
    }

    /// The variants that were never made, as `Enum::Variant`.
    pub(crate) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for (name, (variants, made)) in &self.variants {
            for (number, variant) in (0..).zip(*variants) {
                if !made.contains(&number) {
                    missed.push(format!("{name}::{variant}"));
                }
            }
        }
        missed
    }

    /// xorshift64*.
    pub(crate) fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound
    }

    /// Bytes of a number: the least, the greatest, one, or any.
    fn number(&mut self) -> [u8; 16] {
        match self.below(6) {
            0 => [0; 16],
            1 => [0xff; 16],
            2 => 1_u128.to_le_bytes(),
            3 => u128::from(self.next() & 0xff).to_le_bytes(),
            _ => u128::from(self.next()).to_le_bytes(),
        }
    }

    fn length(&mut self) -> usize {
        let length = match self.below(8) {
            0 | 1 => 0,
            2 => self.below(ELEMENTS),
            _ => self.below(5),
        };
        let length = length.min(self.left);
        self.left -= length;
        length
    }

    fn word(&mut self) -> String {
        match self.below(24) {
            0 => "x".repeat(self.below(2000)),
            n if n < WORDS.len() => WORDS[n].to_owned(),
            // Mostly one that is a name, or few messages would come of it.
            n => WORDS[n % 4].to_owned(),
        }
    }
}

/// Why no value came of it.
#[derive(Debug)]
pub(crate) struct NoValue;

impl std::error::Error for NoValue {}

impl Display for NoValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no value")
    }
}

impl Error for NoValue {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
            let bytes = self.number();
            visitor.$visit(<$type>::from_le_bytes(*bytes.first_chunk().unwrap()))
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Random {
    type Error = NoValue;

    numbers!(
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_u128 visit_u128 u128, deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
        deserialize_i128 visit_i128 i128, deserialize_f32 visit_f32 f32, deserialize_f64 visit_f64 f64
    );

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoValue> {
        panic!("the format describes nothing, and neither do the messages ask it to")
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        self.deserialize_any(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_bool(self.below(2) == 0)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_char('ß')
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_string(self.word())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_string(self.word())
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_string(self.word())
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_byte_buf(self.word().into_bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_byte_buf(self.word().into_bytes())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        if self.below(2) == 0 {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        let left = self.length();
        visitor.visit_seq(Elements { of: self, left })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        visitor.visit_seq(Elements { of: self, left })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        visitor.visit_seq(Elements { of: self, left })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NoValue> {
        let left = self.length();
        visitor.visit_map(Elements { of: self, left })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        let left = fields.len();
        visitor.visit_seq(Elements { of: self, left })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        let number = u32::try_from(self.below(variants.len())).unwrap();
        let value = visitor.visit_enum(Variant {
            of: &mut *self,
            number,
        })?;
        // What nothing comes of was not made.
        let known = self.variants.entry(name);
        known
            .or_insert((variants, BTreeSet::new()))
            .1
            .insert(number);
        Ok(value)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The elements of a list, a map or a structure.
struct Elements<'a> {
    of: &'a mut Random,
    left: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = NoValue;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, NoValue> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        seed.deserialize(&mut *self.of).map(Some)
    }
}

impl<'de> MapAccess<'de> for Elements<'_> {
    type Error = NoValue;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, NoValue> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NoValue> {
        seed.deserialize(&mut *self.of)
    }
}

/// One variant of an enum.
struct Variant<'a> {
    of: &'a mut Random,
    number: u32,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = NoValue;
    type Variant = &'a mut Random;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, &'a mut Random), NoValue> {
        let number: U32Deserializer<NoValue> = self.number.into_deserializer();
        Ok((seed.deserialize(number)?, self.of))
    }
}

impl<'de> VariantAccess<'de> for &mut Random {
    type Error = NoValue;

    fn unit_variant(self) -> Result<(), NoValue> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, NoValue> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, left: usize, visitor: V) -> Result<V::Value, NoValue> {
        visitor.visit_seq(Elements { of: self, left })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        let left = fields.len();
        visitor.visit_seq(Elements { of: self, left })
    }
}
