// The pixels of an image file as OpenCV reads them: turned as its EXIF says, in the file's
// own colours, and without alpha, below which a canvas does not keep the colours.

const EXACT = {
  colorSpaceConversion: 'none',
  imageOrientation: 'from-image',
  premultiplyAlpha: 'none',
};

/**
 * An image as {width, height, data}, RGBA.
 *
 * @param {Blob | ImageBitmap} source A file, or a frame of the camera.
 */
export async function decode(source) {
  const bitmap = source instanceof Blob ? await openFile(source) : source;
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext('2d', {
    willReadFrequently: true,
  });
  context.drawImage(bitmap, 0, 0);
  const image = context.getImageData(0, 0, width, height);
  const decoded = hasAlpha(image.data) ? readBelowAlpha(bitmap) : image;
  bitmap.close();
  return decoded;
}

async function openFile(file) {
  if (!file.size) throw new Error('the file is empty');
  try {
    return await createImageBitmap(file, EXACT);
  } catch (error) {
    throw new Error('it is damaged, too large, or no image that this browser reads');
  }
}

function hasAlpha(data) {
  for (let i = 3; i < data.length; i += 4) if (data[i] < 255) return true;
  return false;
}

/** An image with alpha by way of a texture, which keeps each channel as it is. */
function readBelowAlpha(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext('webgl2');
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
    throw new Error('this browser cannot read it with transparency: save it without');
  }
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(
    gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0,
  );
  const data = new Uint8ClampedArray(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  gl.getExtension('WEBGL_lose_context')?.loseContext(); // a page has few of them
  return { width, height, data };
}
