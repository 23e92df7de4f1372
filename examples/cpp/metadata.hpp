// The metadata of an exported file, JSON, as texts by path: "resize.0.type", "classes.2".
#pragma once

#include <algorithm>
#include <cctype>
#include <map>
#include <stdexcept>
#include <string>

struct Metadata {
    std::map<std::string, std::string> texts;

    explicit Metadata(const std::string& json) : json(json) { read_value(""); }
    bool has(const std::string& path) const { return texts.count(path) && texts.at(path) != "null"; }
    std::string text(const std::string& path) const { return has(path) ? texts.at(path) : fail(path); }
    double number(const std::string& path) const { return std::stod(text(path)); }
    double number(const std::string& path, double other) const { return has(path) ? number(path) : other; }
    bool flag(const std::string& path) const { return has(path) && text(path) == "true"; }

private:
    std::string json;
    size_t at = 0;

    [[noreturn]] static std::string fail(const std::string& what) {
        throw std::runtime_error("the metadata have no " + what + ", or are damaged");
    }
    char peek() {
        while (at < json.size() && std::isspace(static_cast<unsigned char>(json[at]))) ++at;
        return at < json.size() ? json[at] : '\0';
    }
    void read_value(const std::string& path) {
        const std::string in = path.empty() ? "" : path + ".";
        const char first = peek();
        if (first == '"') {
            texts[path] = read_string();
        } else if (first == '{' || first == '[') {
            ++at;
            for (int i = 0; peek() != '}' && peek() != ']'; ++i) {
                const std::string key = first == '{' ? read_string() : std::to_string(i);
                if (first == '{' && peek() == ':') ++at;
                read_value(in + key);
                if (peek() == ',') ++at;
            }
            ++at;
        } else {  // a number, true, false, null
            const size_t end = std::min(json.find_first_of(",]} \t\r\n", at), json.size());
            if (end == at) fail("value at " + path);
            texts[path] = json.substr(at, end - at);
            at = end;
        }
    }
    std::string read_string() {
        if (peek() != '"') fail("string at " + std::to_string(at));
        std::string text;
        for (++at; at < json.size() && json[at] != '"'; ++at) {
            if (json[at] != '\\') { text += json[at]; continue; }
            const std::string codes = "ntrbf", meant = "\n\t\r\b\f";
            if (json.at(++at) != 'u') {
                const size_t code = codes.find(json[at]);
                text += code == std::string::npos ? json[at] : meant[code];
                continue;
            }
            unsigned point = std::stoul(json.substr(at + 1, 4), nullptr, 16);
            at += 4;
            if (point >= 0xD800 && point < 0xDC00) {  // half of a character, the other follows
                point = 0x10000 + ((point - 0xD800) << 10) + std::stoul(json.substr(at + 3, 4), nullptr, 16) - 0xDC00;
                at += 6;
            }
            append_utf8(text, point);
        }
        ++at;
        return text;
    }
    static void append_utf8(std::string& text, unsigned point) {
        const int more = point < 0x80 ? 0 : point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
        const unsigned first[] = {0, 0xC0, 0xE0, 0xF0};
        text += static_cast<char>(first[more] | (point >> (6 * more)));
        for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80 | ((point >> (6 * i)) & 0x3F));
    }
};
