// Classifies images with a .tflite file of this package on iOS. Class names and how the pixels
// are scaled are read from the file's own metadata.
//
// Podfile:
//
//     platform :ios, '15.0'
//     use_frameworks!
//     target 'YourApp' do
//       pod 'MediaPipeTasksVision', '0.10.21'
//     end
//
// The model is a resource of the app: model_int8.tflite, in "Copy Bundle Resources".

import MediaPipeTasksVision
import UIKit

final class EfficientNetClassifier {
    enum Failure: Error {
        case noModel(String)
        case noPixels
    }

    private let classifier: ImageClassifier
    private let cropFraction: CGFloat

    /// - Parameter cropFraction: share of the shorter side that was looked at in evaluation: 0.875
    ///   for photos; the description of the model's input in its metadata says it.
    init(model: String = "model_int8", maxResults: Int = 5, cropFraction: CGFloat = 0.875) throws {
        guard let path = Bundle.main.path(forResource: model, ofType: "tflite") else {
            throw Failure.noModel(model)
        }
        let options = ImageClassifierOptions()
        options.baseOptions.modelAssetPath = path
        options.runningMode = .image
        options.maxResults = maxResults
        classifier = try ImageClassifier(options: options)
        self.cropFraction = cropFraction
    }

    /// Returns the best classes with their scores, best first.
    func classify(_ image: UIImage) throws -> [(label: String, score: Float)] {
        guard let pixels = image.cgImage else { throw Failure.noPixels }
        // MediaPipe would squeeze the whole image into a square; evaluation took the centre's.
        // The region is one of the pixels as they are stored, ahead of the rotation.
        let side = cropFraction * CGFloat(min(pixels.width, pixels.height))
        let width = side / CGFloat(pixels.width)
        let height = side / CGFloat(pixels.height)
        let centre = CGRect(x: (1 - width) / 2, y: (1 - height) / 2, width: width, height: height)
        let upright = try MPImage(uiImage: image, orientation: image.imageOrientation)
        let result = try classifier.classify(image: upright, regionOfInterest: centre)
        return (result.classificationResult.classifications.first?.categories ?? []).map {
            (label: $0.categoryName ?? "class \($0.index)", score: $0.score)
        }
    }
}
