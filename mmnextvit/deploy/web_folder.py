"""What lies in a folder that ``mmnextvit export --to web`` writes."""

from pathlib import Path

PAGE = Path(__file__).with_name('web_page')
MODEL = 'model.onnx'
METADATA = 'metadata.json'  # ONNX Runtime Web does not read those in an ONNX file
RUNTIME = 'onnxruntime'
VERSION = '1.30.0'  # of onnxruntime-web

# What of its package the page needs, by SHA-256: the interface, and what runs networks
# on the processor, in one thread or in several.
RUNTIME_FILES = {
    'ort.wasm.min.mjs': (
        '219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b'
    ),
    'ort-wasm-simd-threaded.mjs': (
        'e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b'
    ),
    'ort-wasm-simd-threaded.wasm': (
        '3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2'
    ),
}
PAGE_FILES = (
    'index.html',
    'page.css',
    'page.js',
    'worker.js',
    'decode.js',
    'layout.js',
    'resize.js',
    'detections.js',
    'icon.svg',
    'LICENSE',
    f'{RUNTIME}/LICENSE',
)
FILES = (
    *PAGE_FILES,
    MODEL,
    METADATA,
    *(f'{RUNTIME}/{name}' for name in RUNTIME_FILES),
)
