//! A drawing as pixels, averaged down and written as PNG.

use super::Undrawable;
use super::pen::SCALE;

/// RGB, row by row, larger than the picture.
pub(super) struct Canvas {
    /// Of the picture.
    width: u32,
    height: u32,
    large: Vec<u8>,
}

impl Canvas {
    /// For a picture of this size.
    pub(super) fn new((width, height): (u32, u32)) -> Canvas {
        Canvas { width, height, large: vec![0; (width * height * SCALE * SCALE * 3) as usize] }
    }

    /// Of the drawing.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.width * SCALE, self.height * SCALE)
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.large
    }

    /// The picture.
    pub(super) fn png(&self) -> Result<Vec<u8>, Undrawable> {
        let undrawable = |error: png::EncodingError| Undrawable(error.to_string());
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        // Large areas of one colour: rows as they are pack better than their differences.
        encoder.set_filter(png::FilterType::NoFilter);
        encoder.set_compression(png::Compression::Default);
        let mut writer = encoder.write_header().map_err(undrawable)?;
        writer.write_image_data(&self.averaged()).map_err(undrawable)?;
        writer.finish().map_err(undrawable)?;
        Ok(bytes)
    }

    /// Each pixel of the picture is the mean of the drawing's pixels under it.
    pub(super) fn averaged(&self) -> Vec<u8> {
        let scale = SCALE as usize;
        let row_bytes = self.width as usize * scale * 3;
        let mut small = Vec::with_capacity((self.width * self.height * 3) as usize);
        let mut sums = vec![0u16; row_bytes / scale];
        for rows in self.large.chunks_exact(row_bytes * scale) {
            sums.fill(0);
            for row in rows.chunks_exact(row_bytes) {
                for (sums, under) in sums.chunks_exact_mut(3).zip(row.chunks_exact(3 * scale)) {
                    for pixel in under.chunks_exact(3) {
                        sums[0] += u16::from(pixel[0]);
                        sums[1] += u16::from(pixel[1]);
                        sums[2] += u16::from(pixel[2]);
                    }
                }
            }
            small.extend(sums.iter().map(|sum| (sum / (SCALE * SCALE) as u16) as u8));
        }
        small
    }
}
