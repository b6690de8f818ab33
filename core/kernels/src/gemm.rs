//! A safe face for the single-threaded matrix product of the `gemm` crate.

/// A matrix stored in a slice: element (i, j) lies at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows stored one after another, `columns` apart.
    pub fn rows(data: &'a [f32], columns: usize) -> Self {
        Self { data, row_stride: columns, column_stride: 1 }
    }

    /// The transpose of [`Matrix::rows`].
    pub fn columns(data: &'a [f32], rows: usize) -> Self {
        Self { data, row_stride: 1, column_stride: rows }
    }

    fn check(&self, rows: usize, columns: usize) {
        let last = (rows - 1) * self.row_stride + (columns - 1) * self.column_stride;
        assert!(last < self.data.len(), "matrix of {rows} x {columns} exceeds its slice");
    }
}

/// `out = a * b` or, with `add`, `out += a * b`, for an `m x k` matrix `a` and a `k x n` matrix
/// `b`; `out` has `m` rows that start `out_stride` apart.
pub(crate) fn multiply(
    (m, k, n): (usize, usize, usize),
    a: Matrix<'_>,
    b: Matrix<'_>,
    out: &mut [f32],
    out_stride: usize,
    add: bool,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    a.check(m, k);
    b.check(k, n);
    Matrix { data: out, row_stride: out_stride, column_stride: 1 }.check(m, n);
    assert!(out_stride >= n, "rows of the result overlap");
    // SAFETY: every element that is read or written lies inside its slice (checked above, strides
    // are not negative), `out` is borrowed mutably and so does not alias the inputs.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
