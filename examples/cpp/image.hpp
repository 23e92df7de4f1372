// Images: read from PPM, and resized as OpenCV does it. OpenCV's own functions may take their place.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <istream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

struct Image {
    int height, width;
    std::vector<uint8_t> rgb;  // height x width x 3
};

using Taps = std::vector<std::vector<std::pair<int, double>>>;  // pixels and weights that make one

inline Taps weigh(int from, int to, bool area) {  // as OpenCV's INTER_AREA and INTER_LINEAR do
    Taps taps(to);
    const double scale = double(from) / to;
    for (int i = 0; i < to; ++i) {
        if (area) {
            const double begin = i * scale, end = std::min((i + 1) * scale, double(from));
            for (int j = begin; j < end; ++j)
                taps[i].emplace_back(j, (std::min(j + 1.0, end) - std::max(double(j), begin)) / (end - begin));
        } else {
            const double middle = (i + 0.5) * scale - 0.5;
            const int left = std::floor(middle);
            taps[i] = {{std::clamp(left, 0, from - 1), left + 1 - middle},
                       {std::clamp(left + 1, 0, from - 1), middle - left}};
        }
    }
    return taps;
}

inline Image resize(const Image& image, int height, int width, bool area) {
    if (image.height == height && image.width == width) return image;
    const Taps rows = weigh(image.height, height, area), columns = weigh(image.width, width, area);
    Image resized{height, width, std::vector<uint8_t>(size_t(height) * width * 3)};
    for (int y = 0, at = 0; y < height; ++y)
        for (int x = 0; x < width; ++x)
            for (int c = 0; c < 3; ++c, ++at) {
                double sum = 0;
                for (auto [row, a] : rows[y])
                    for (auto [column, b] : columns[x])
                        sum += a * b * image.rgb[(size_t(row) * image.width + column) * 3 + c];
                resized.rgb[at] = std::lround(sum);
            }
    return resized;
}

inline bool read_ppm(std::istream& in, Image& image) {  // false at the end
    std::string kind;
    int largest = 0;
    if (!(in >> kind)) return false;
    if (kind != "P6" || !(in >> image.width >> image.height >> largest) || largest != 255 ||
        image.width < 1 || image.height < 1 || image.width > (1 << 15) || image.height > (1 << 15))
        throw std::runtime_error("the input is no binary PPM (P6) of 8 bits");
    in.get();
    image.rgb.resize(size_t(image.height) * image.width * 3);
    if (!in.read(reinterpret_cast<char*>(image.rgb.data()), image.rgb.size()))
        throw std::runtime_error("the image is truncated");
    return true;
}
