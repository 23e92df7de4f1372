// Detects objects by an OpenVINO file that `mmnextvit export --to openvino` wrote:
//   detect MODEL.xml [MIN_SCORE] < IMAGES.ppm
// Images are binary PPM, one after another, as other programs write them:
//   ffmpeg -i video.mp4 -f image2pipe -c:v ppm - | detect model_openvino/model.xml 0.3
// A line is the image's number, the class, the score and x1, y1, x2, y2 in its pixels.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <utility>

#include <openvino/openvino.hpp>

#include "image.hpp"
#include "metadata.hpp"

struct Layout {  // where the image lies in the network's input: y, x
    double origin[2] = {0, 0}, factor[2] = {1, 1};
};

// The network's input, and where the image lies in it, by the steps of the metadata's "resize".
std::pair<ov::Tensor, Layout> prepare(Image image, const Metadata& about) {
    Layout layout;
    const int before[2] = {image.height, image.width};
    int canvas[2] = {image.height, image.width};
    std::string step;
    for (int i = 0; about.has("resize." + std::to_string(i) + ".type"); ++i) {
        step = "resize." + std::to_string(i) + ".";
        const int size[2] = {image.height, image.width};
        int sides[2];
        bool area = false;
        if (about.text(step + "type") == "keep_ratio") {
            const double a = about.number(step + "scale.0"), b = about.number(step + "scale.1");
            const double ratio = std::min(std::max(a, b) / std::max(size[0], size[1]),
                                          std::min(a, b) / std::min(size[0], size[1]));
            area = ratio < 1;
            for (int k : {0, 1}) canvas[k] = sides[k] = std::max(int(size[k] * ratio), 1);
        } else {  // a letterbox
            for (int k : {0, 1}) canvas[k] = about.number(step + "size." + std::to_string(k));
            double ratio = std::min(double(canvas[0]) / size[0], double(canvas[1]) / size[1]);
            if (!about.flag(step + "scale_up")) ratio = std::min(ratio, 1.0);
            const int stride = about.number(step + "stride", 32);
            for (int k : {0, 1}) {
                sides[k] = std::max(int(std::nearbyint(size[k] * ratio)), 1);
                if (about.flag(step + "mini_pad")) canvas[k] = sides[k] + (canvas[k] - sides[k]) % stride;
            }
        }
        for (int k : {0, 1}) layout.factor[k] *= double(sides[k]) / size[k];
        image = resize(image, sides[0], sides[1], area);
    }
    const int top = (canvas[0] - image.height) / 2, left = (canvas[1] - image.width) / 2;
    layout.origin[0] = top;
    layout.origin[1] = left;
    if (about.flag(step + "exact")) {  // as YOLOv5 maps its boxes back
        const double gain = std::min(double(canvas[0]) / before[0], double(canvas[1]) / before[1]);
        for (int k : {0, 1}) {
            layout.factor[k] = gain;
            layout.origin[k] = (canvas[k] - before[k] * gain) / 2;
        }
    } else if (about.flag(step + "half_pad")) {
        layout.origin[0] = (canvas[0] - image.height) / 2.0;
        layout.origin[1] = (canvas[1] - image.width) / 2.0;
    }
    const size_t batch = about.number("input.batch", 1), plane = size_t(canvas[0]) * canvas[1];
    ov::Tensor input(ov::element::f32, {batch, 3, size_t(canvas[0]), size_t(canvas[1])});
    float* values = input.data<float>();
    std::fill_n(values, input.get_size(), float(about.number(step + "fill", 0)));
    for (int y = 0, at = 0; y < image.height; ++y)
        for (int x = 0; x < image.width; ++x)
            for (int c = 0; c < 3; ++c, ++at)
                values[c * plane + size_t(y + top) * canvas[1] + x + left] = image.rgb[at];
    return {input, layout};
}

int main(int count, char** arguments) try {
    if (count < 2) throw std::runtime_error("usage: detect MODEL.xml [MIN_SCORE] < IMAGES.ppm");
    const double min_score = count > 2 ? std::stod(arguments[2]) : 0.3;
    ov::Core core;
    const auto model = core.read_model(arguments[1]);
    if (!model->has_rt_info("mmnextvit")) throw std::runtime_error("mmnextvit export did not write this file");
    const Metadata about(model->get_rt_info<std::string>("mmnextvit"));
    if (about.number("format") > 1) throw std::runtime_error("the metadata are newer than this program");
    if (about.has("input.channels") && about.text("input.channels") != "RGB") throw std::runtime_error("the images are to be " + about.text("input.channels") + ", and PPM has RGB");
    if (!about.flag("nms.in_graph")) throw std::runtime_error("export without --no-nms");
    auto request = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32)).create_infer_request();
    Image image;
    for (int number = 0; read_ppm(std::cin, image); ++number) {
        const auto [input, layout] = prepare(image, about);
        request.set_input_tensor(input);
        request.infer();
        const int found = request.get_tensor("num_detections").data<int32_t>()[0];
        const float *boxes = request.get_tensor("boxes").data<float>(), *scores = request.get_tensor("scores").data<float>();
        const int32_t* labels = request.get_tensor("labels").data<int32_t>();
        for (int i = 0; i < found; ++i) {
            if (scores[i] < float(min_score)) continue;
            std::printf("%d\t%s\t%.4f", number, about.text("classes." + std::to_string(labels[i])).c_str(), scores[i]);
            for (int k = 0; k < 4; ++k) {  // x1, y1, x2, y2
                const int axis = 1 - k % 2, side = axis ? image.width : image.height;
                const double value = (boxes[4 * i + k] - layout.origin[axis]) / layout.factor[axis];
                std::printf("\t%.2f", std::clamp(value, 0.0, double(side)));
            }
            std::printf("\n");
        }
    }
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
