//! Colours, fonts and sizes.

use plotters::prelude::*;
use plotters::style::FontStyle;

use super::Undrawable;

pub(super) const INK: RGBColor = RGBColor(0x22, 0x2b, 0x38);
pub(super) const FAINT_INK: RGBColor = RGBColor(0x5b, 0x66, 0x76);
pub(super) const GRID: RGBColor = RGBColor(0xe6, 0xe9, 0xee);
pub(super) const WHITE_PAPER: RGBColor = WHITE;

/// Of one run: what it was trained on, and what was held out.
pub(super) const TRAIN: RGBColor = RGBColor(0x2f, 0x6f, 0xd0);
pub(super) const HELD_OUT: RGBColor = RGBColor(0xe0, 0x6c, 0x1f);

/// Of several, one for each.
const PALETTE: [RGBColor; 8] = [
    TRAIN,
    HELD_OUT,
    RGBColor(0x2a, 0x9d, 0x63),
    RGBColor(0x8a, 0x4f, 0xc7),
    RGBColor(0xc9, 0x30, 0x4a),
    RGBColor(0x17, 0x96, 0xa6),
    RGBColor(0x8c, 0x62, 0x39),
    RGBColor(0xd2, 0x52, 0xa0),
];

/// The colour of a job, or of a line, by its place.
pub(super) fn colour(place: usize) -> RGBColor {
    PALETTE[place % PALETTE.len()]
}

/// Names that the fonts are known by, in the picture's text and to SVG's readers.
const FONT: FontFamily<'static> = FontFamily::SansSerif;

/// How pixels of the picture become those of the drawing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pen {
    scale: i32,
}

/// A bitmap is drawn so many times larger and averaged down: smooth lines without a drawing library of our own.
pub(super) const SCALE: u32 = 3;

impl Pen {
    /// For a drawing that is averaged down.
    pub(super) fn large() -> Result<Pen, Undrawable> {
        register_fonts()?;
        Ok(Pen { scale: SCALE as i32 })
    }

    /// For one that is what it is.
    pub(super) fn exact() -> Result<Pen, Undrawable> {
        register_fonts()?;
        Ok(Pen { scale: 1 })
    }

    /// Pixels of the picture in pixels of the drawing.
    pub(super) fn px(self, pixels: i32) -> i32 {
        pixels * self.scale
    }

    /// A line of so many tenths of a pixel.
    pub(super) fn stroke(self, tenths: i32) -> u32 {
        ((tenths * self.scale + 5) / 10).max(1) as u32
    }

    pub(super) fn regular(self, pixels: i32) -> FontDesc<'static> {
        FontDesc::new(FONT, f64::from(self.px(pixels)), FontStyle::Normal)
    }

    pub(super) fn bold(self, pixels: i32) -> FontDesc<'static> {
        FontDesc::new(FONT, f64::from(self.px(pixels)), FontStyle::Bold)
    }
}

/// The fonts are in the program, so that pictures have labels on machines without any.
fn register_fonts() -> Result<(), Undrawable> {
    for (style, bytes) in [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())] {
        plotters::style::register_font(FONT.as_str(), style, bytes)
            .map_err(|_| Undrawable("its font cannot be read".into()))?;
    }
    Ok(())
}
