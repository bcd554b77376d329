//! Reading that never trusts a length.

use std::io::{BufReader, Read, Seek, SeekFrom};

use crate::error::{Fault, damaged};

/// A file or bytes in memory, with a place in it.
#[derive(Debug)]
pub(crate) struct Input<R> {
    inner: BufReader<R>,
    at: u64,
    len: u64,
}

impl<R: Read + Seek> Input<R> {
    pub(crate) fn new(mut inner: R) -> Result<Self, Fault> {
        let len = inner.seek(SeekFrom::End(0))?;
        inner.rewind()?;
        Ok(Input { inner: BufReader::with_capacity(1 << 16, inner), at: 0, len })
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn left(&self) -> u64 {
        self.len - self.at
    }

    /// Goes on from a place.
    pub(crate) fn go(&mut self, to: u64) -> Result<(), Fault> {
        if to > self.len {
            return damaged(format!("it ends at byte {} and speaks of byte {to}", self.len));
        }
        let by = to as i64 - self.at as i64;
        self.inner.seek_relative(by)?;
        self.at = to;
        Ok(())
    }

    /// Steps over bytes, which must be there.
    pub(crate) fn skip(&mut self, len: u64) -> Result<(), Fault> {
        self.claim(len)?;
        self.go(self.at + len)
    }

    /// That so many bytes are left.
    pub(crate) fn claim(&self, len: u64) -> Result<(), Fault> {
        if len > self.left() {
            return damaged(format!("{len} bytes are claimed at byte {} of {}", self.at, self.len));
        }
        Ok(())
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        self.claim(bytes.len() as u64)?;
        self.inner.read_exact(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// So many bytes, allocated once it is sure that they are there.
    pub(crate) fn bytes(&mut self, len: u64) -> Result<Vec<u8>, Fault> {
        self.claim(len)?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// A text in UTF-8.
    pub(crate) fn text(&mut self, len: u64) -> Result<String, Fault> {
        let at = self.at;
        let bytes = self.bytes(len)?;
        String::from_utf8(bytes)
            .map_err(|_| Fault::Damaged(format!("the text at byte {at} is not UTF-8")))
    }
}
